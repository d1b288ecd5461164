//! `byteCapacity`: what the bodies of waiting events may take in memory, counted in slots as Flume does.

use crate::config::{ParseContext, Property, PropertySpec as _};
use crate::event::EventBatch;
use crate::io::machine;

/// Limit in bytes.
pub const BYTE_CAPACITY: Property<i64> = Property::absent(
    "byteCapacity",
    "Most bytes of event bodies that may wait. 0 = no limit. Not set: a fifth of the memory this process may use \
     (Flume: 80 % of the Java heap).",
);
/// Part of it that bodies do not get.
pub const BYTE_CAPACITY_BUFFER_PERCENTAGE: Property<u32> = Property::optional(
    "byteCapacityBufferPercentage",
    "20",
    "Part of `byteCapacity` set aside for headers, in percent.",
);

/// Slots when the byte capacity is 0 or less than a slot: Flume's `Integer.MAX_VALUE`, about 200 GB.
const SLOTS_UNLIMITED: u64 = i32::MAX as u64;

/// Slots of so many bytes within a byte capacity, without the part set aside for headers.
pub fn slots_within(byte_capacity: u64, percentage: u32, slot_bytes: u64) -> u64 {
    let usable = byte_capacity as u128 * u128::from(100 - percentage.min(100)) / 100;
    match (usable / u128::from(slot_bytes.max(1))) as u64 {
        0 => SLOTS_UNLIMITED,
        slots => slots.min(SLOTS_UNLIMITED),
    }
}

/// Slots a batch costs: every body rounded up to whole slots, an empty one costs one.
pub fn slots_of(batch: &EventBatch, slot_bytes: u64) -> u64 {
    batch.bodies().map(|body| (body.len() as u64).div_ceil(slot_bytes).max(1)).sum()
}

/// The byte capacity and the part of it that is set aside.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<(u64, u32)> {
    let byte_capacity = cx.get_opt(&BYTE_CAPACITY);
    let percentage = cx.get(&BYTE_CAPACITY_BUFFER_PERCENTAGE)?;
    if percentage > 100 {
        cx.error(
            BYTE_CAPACITY_BUFFER_PERCENTAGE.name(),
            "is more than 100 percent",
            Some("for example: 20".to_owned()),
        );
        return None;
    }
    let byte_capacity =
        byte_capacity?.map_or_else(|| machine::memory_bytes() / 5, |bytes| bytes.max(0) as u64);
    Some((byte_capacity, percentage))
}
