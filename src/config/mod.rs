//! Configuration: Flume's `.properties` text to typed component settings, with every complaint carrying
//! file, line, component, property, value and what to type.

pub mod context;
pub mod diagnostic;
pub mod globals;
pub mod kerberos;
pub mod model;
pub mod nearest;
pub mod properties;
pub mod property;
pub mod resolve;
pub mod tls;

pub use context::{ComponentSettings, Kind, ParseContext, Setting};
pub use diagnostic::{Diagnostic, Location, Severity};
pub use globals::Globals;
pub use property::{
    CommaList, Millis, Pattern, Port, Positive, Property, PropertySpec, PropertyValue, Seconds, Specs, Words,
};
