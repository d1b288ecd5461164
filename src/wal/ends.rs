//! Where a log ends: what a torn tail is and what damage is. Changes nothing; the agent and the tools
//! read a log with the same eyes.

use super::cipher::LogCipher;
use super::frame::{FLAG_LAST, FrameKind, u64_at};
use super::frames::Frames;
use super::listing::Found;
use super::segment::Segment;
use super::state::State;
use super::writer::SNAPSHOT_FIXED;
use super::{WalError, open_payload};
use crate::io::Io;

/// What the state page knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Everything before it was durable.
    pub(super) durable: u64,
    /// And nothing behind it was: this run of the kernel wrote the page.
    pub(super) exact: bool,
    /// Position of a durable snapshot of marks.
    pub(super) snapshot: u64,
    /// The consumer's position as the log itself stored it last: position and number. No file behind it was given
    /// back.
    pub(super) low: Option<(u64, u64)>,
}

impl Known {
    /// From the page, in this run of the kernel.
    pub(super) fn new(state: Option<&State>, boot: u64) -> Self {
        let exact = boot != 0 && state.is_some_and(|s| s.boot == boot);
        // After a loss of power the page of a mapped log may be ahead of it: only what was synced counts.
        let durable = state.map_or(0, |s| if exact { s.durable } else { s.synced });
        // A copy may be older than what was given back; it does not say in which run it was written.
        let low = state.filter(|s| s.boot != 0).map(|s| (s.low_position, s.low_seq));
        Self { durable, exact, snapshot: state.map_or(0, |s| s.snapshot), low }
    }

    /// For a page that is as it was made: nothing was ever given back.
    pub(super) fn or_untouched(self, untouched: bool) -> Self {
        Self { low: self.low.or(untouched.then_some((0, 0))), ..self }
    }
}

/// The end of a log, or of its good part so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    pub(super) position: u64,
    pub(super) seq: u64,
    pub(super) bytes: u64,
    /// Bytes that were never acknowledged.
    pub(super) torn: u64,
}

/// A place that cannot be read and lies before the end.
pub(super) struct Hole {
    /// Index of its segment.
    pub(super) segment: usize,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// What [`find`] found. Each segment's own end is set in it.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) end: End,
    /// Number behind the last event of each segment.
    pub(super) seqs: Vec<u64>,
    /// Segments from here on were never acknowledged.
    pub(super) keep: usize,
    /// Indices of segments that nobody had sealed.
    pub(super) unsealed: Vec<usize>,
    pub(super) holes: Vec<Hole>,
}

/// Finds the end of every segment and of the log. Without `cipher` payloads of encrypted frames are not
/// looked at, and bytes are not counted.
pub(super) async fn find(
    io: &Io,
    live: &[Found],
    log_id: u64,
    cipher: Option<&LogCipher>,
    known: Known,
) -> Result<Ends, WalError> {
    let mut ends = Ends { keep: live.len(), ..Ends::default() };
    if let Some((position, seq)) = known.low {
        let start = End { position, seq, ..End::default() };
        if is_cut_off(io, live, log_id, known, start, true).await? {
            // The power took the first files of a mapped log, before anything of it was on the medium.
            let torn = live.iter().map(|f| f.header.size).sum();
            return Ok(Ends { end: End { torn, ..start }, keep: 0, ..Ends::default() });
        }
    }
    for (index, found) in live.iter().enumerate() {
        let number = found.header.number;
        let successor = live.get(index + 1).filter(|f| f.header.previous == number);
        let informed = successor.filter(|f| !f.rebuilt).map(|f| &f.header);
        // A later open says where the segment really ended; otherwise its own footer does, or that
        // something behind it was durable.
        let told = informed.filter(|h| h.reopened || h.first_frame() <= known.durable);
        let sealed = match (told, &found.footer) {
            (Some(h), _) if h.reopened => Some((h.previous_end, h.start_seq, h.start_bytes)),
            (_, Some(footer)) => Some((footer.end, footer.end_seq, footer.end_bytes)),
            (Some(h), None) => Some((h.previous_end, h.start_seq, h.start_bytes)),
            (None, None) => None,
        };
        let segment = &found.segment;
        if found.footer.is_none() {
            ends.unsealed.push(index);
            if !opens_with_snapshot(io, segment, log_id).await? {
                segment.opening_end.set(u64::MAX);
            }
        }
        let mut gap = None;
        if let Some((position, seq, bytes)) = sealed {
            ends.end = End { position, seq, bytes, torn: 0 };
            segment.end_seq.set(Some(seq));
        } else {
            let expected = Expected {
                position: informed.map(|h| h.previous_end),
                seq: successor.filter(|f| f.rebuilt).map(|f| f.header.start_seq),
            };
            let mut known = known;
            gap = loop {
                let before = (ends.end.torn, ends.holes.len());
                let scan = Scan { io, log_id, cipher, known, expected };
                let gap = scan.run(index, found, &mut ends).await?;
                // Something in a later segment may say that this is damage and not where the log ended.
                let Some(at) = gap.filter(|_| !known.exact) else { break gap };
                let Some(claim) = later_claim(io, &live[index + 1..], log_id, at).await? else { break gap };
                known.durable = claim;
                ends.end.torn = before.0;
                ends.holes.truncate(before.1);
            };
        }
        let limit = segment.frames_limit().max(segment.first_frame());
        ends.end.position = ends.end.position.clamp(segment.first_frame(), limit);
        segment.end.set(ends.end.position);
        ends.seqs.push(ends.end.seq);
        let later = &live[index + 1..];
        if gap.is_none() && is_cut_off(io, later, log_id, known, ends.end, found.header.mapped).await? {
            gap = Some(ends.end.position);
        }
        if gap.is_some() {
            // Whatever follows was never acknowledged.
            ends.keep = index + 1;
            ends.end.torn += live[index + 1..].iter().map(|f| f.header.size).sum::<u64>();
            break;
        }
    }
    Ok(ends)
}

/// True if events are missing before the next segment, and nobody claims that they were on the medium: then that
/// segment of a mapped log survived a loss of power by chance. A header made again does not know whether it was
/// mapped: then it is if the one before it is.
async fn is_cut_off(
    io: &Io,
    later: &[Found],
    log_id: u64,
    known: Known,
    end: End,
    mapped_before: bool,
) -> Result<bool, WalError> {
    let Some(next) = later.first() else { return Ok(false) };
    let header = &next.header;
    let is_mapped = header.mapped || (next.rebuilt && mapped_before);
    if !is_mapped {
        return Ok(false);
    }
    // An opening knows what was there before it.
    if known.exact || header.reopened || header.start_seq <= end.seq || header.first_frame() <= known.durable
    {
        return Ok(false);
    }
    Ok(later_claim(io, later, log_id, end.position).await?.is_none())
}

/// True if the snapshot of marks at the start of a segment is whole: otherwise they are only in segments
/// before it, which must then be kept.
async fn opens_with_snapshot(io: &Io, segment: &Segment, log_id: u64) -> Result<bool, WalError> {
    let mut frames = Frames::open(io, segment, log_id, segment.frames_limit()).await?;
    let mut position = segment.first_frame();
    while let Some((header, _)) = frames.read(position).await? {
        if header.kind != FrameKind::Snapshot {
            break;
        }
        if header.has(FLAG_LAST) {
            return Ok(true);
        }
        position = header.end();
    }
    Ok(false)
}

/// What the segment behind one knows of its end.
#[derive(Clone, Copy)]
struct Expected {
    position: Option<u64>,
    seq: Option<u64>,
}

/// A watermark beyond a position that a frame or a footer in one of these segments claims.
async fn later_claim(io: &Io, later: &[Found], log_id: u64, position: u64) -> Result<Option<u64>, WalError> {
    for found in later {
        let segment = &found.segment;
        // Written when everything before it was on the medium.
        if let Some(footer) = found.footer.as_ref().filter(|f| f.end > position) {
            return Ok(Some(footer.end));
        }
        let mut frames = Frames::open(io, segment, log_id, segment.frames_limit()).await?;
        let mut from = segment.first_frame();
        while let Some(header) = frames.find(from).await? {
            if header.durable > position {
                return Ok(Some(header.durable));
            }
            from = header.end();
        }
    }
    Ok(None)
}

/// Reading a segment that was not sealed.
struct Scan<'a> {
    io: &'a Io,
    log_id: u64,
    cipher: Option<&'a LogCipher>,
    known: Known,
    expected: Expected,
}

impl Scan<'_> {
    /// `None` if the segment ends where the one behind it says, or if what cannot be read is damage;
    /// otherwise where its frames end, which is the end of the log.
    async fn run(&self, index: usize, found: &Found, ends: &mut Ends) -> Result<Option<u64>, WalError> {
        let Known { durable, exact, .. } = self.known;
        let segment = &found.segment;
        let limit = segment.frames_limit();
        let mut frames = Frames::open(self.io, segment, self.log_id, limit).await?;
        let end = &mut ends.end;
        (end.position, end.seq, end.bytes) = self.start(found, &mut frames).await?.unwrap_or((
            segment.first_frame(),
            found.header.start_seq,
            found.header.start_bytes,
        ));
        let mut position = end.position;
        let (mut seq, mut bytes, mut open) = (end.seq, end.bytes, false);
        loop {
            while let Some((header, _)) = frames.read(position).await? {
                position = header.end();
                if header.kind == FrameKind::Data {
                    seq = header.first_seq + u64::from(header.events);
                    bytes += u64::from(header.raw - header.marks);
                    open = !header.has(FLAG_LAST);
                }
                if !open {
                    *end = End { position, seq, bytes, torn: end.torn };
                }
            }
            let is_end =
                self.expected.position == Some(position) || (self.expected.seq == Some(seq) && !open);
            if is_end || position >= limit {
                return Ok(None);
            }
            // No frame here. If something behind it was durable, this is damage; in the run of the kernel
            // that wrote the state page, that page knows.
            let mut claim = position < durable;
            let mut stray = 0;
            if !claim && !exact {
                let mut from = position + 1;
                while let Some(header) = frames.find(from).await? {
                    stray += u64::from(header.length);
                    from = header.end();
                    if header.durable > position {
                        claim = true;
                        break;
                    }
                }
            }
            if !claim {
                end.torn += position - end.position + stray;
                return Ok(Some(position));
            }
            let resume = frames.find(position + 1).await?.map(|h| h.position);
            let until = resume.unwrap_or(durable.min(limit));
            let (offset, size) = (segment.offset(position), until.saturating_sub(position));
            ends.holes.push(Hole { segment: index, offset, size });
            match resume {
                Some(resume) => position = resume,
                None => {
                    let until = self.expected.position.unwrap_or(durable).clamp(position, limit);
                    *end = End { position: until, seq, bytes, torn: end.torn };
                    return Ok(None);
                }
            }
        }
    }

    /// Everything before a snapshot known to be durable need not be read.
    async fn start(&self, found: &Found, frames: &mut Frames) -> Result<Option<(u64, u64, u64)>, WalError> {
        let (segment, snapshot) = (&found.segment, self.known.snapshot);
        let inside = (segment.first_frame()..segment.frames_limit()).contains(&snapshot);
        if !inside || snapshot > self.known.durable {
            return Ok(None);
        }
        let Some((header, stored)) = frames.read(snapshot).await? else { return Ok(None) };
        if header.kind != FrameKind::Snapshot {
            return Ok(None);
        }
        let bytes = match self.cipher {
            None => 0,
            Some(cipher) => match open_payload(cipher, &header, stored, &segment.path)? {
                Some(payload) if payload.len() >= SNAPSHOT_FIXED => u64_at(&payload, 16),
                _ => return Ok(None),
            },
        };
        Ok(Some((snapshot, header.first_seq, bytes)))
    }
}
