//! What is wrong with a configuration, where, and what to type instead.

use std::fmt;
use std::sync::Arc;

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Path or URI as the operator gave it.
    pub file: Arc<str>,
    /// Line number, from 1: the line the key stands on.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Whether a diagnostic refuses the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The agent does not start.
    Error,
    /// The agent starts; the operator should look.
    Warning,
}

/// One complaint, complete enough to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The component or full key as the operator wrote it, for example `a1.sources.r1.port`.
    pub subject: String,
    /// The value as written, if a value is the problem.
    pub value: Option<String>,
    /// What is wrong, without the subject and value.
    pub message: String,
    /// Where it was written.
    pub location: Option<Location>,
    /// What to type.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error about `subject`.
    pub fn error(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, subject.into(), message.into())
    }
    /// A warning about `subject`.
    pub fn warning(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, subject.into(), message.into())
    }
    fn new(severity: Severity, subject: String, message: String) -> Self {
        Self { severity, subject, value: None, message, location: None, hint: None }
    }
    /// Adds the value as written.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
    /// Adds the place.
    #[must_use]
    pub fn at(mut self, location: Option<Location>) -> Self {
        self.location = location;
        self
    }
    /// Adds what to type.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// True for a key whose value must not be shown, mistyped keys included: it names a password, secret or
/// token, and not the file with one.
pub fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    let path = ["file", "path", "-path"].iter().any(|end| name.ends_with(end));
    !path && ["passw", "pasw", "secret", "token"].iter().any(|word| name.contains(word))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{word}: {}", self.subject)?;
        if let Some(value) = &self.value {
            match is_secret(&self.subject) {
                true => f.write_str(" = [secret]")?,
                false => write!(f, " = {value:?}")?,
            }
        }
        write!(f, ": {}", self.message)?;
        if let Some(location) = &self.location {
            write!(f, "\n  --> {location}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_secret() {
        for (key, expected) in [
            ("a1.sources.r1.keystore-password", true),
            ("a1.sources.r1.keystorePasswrd", true),
            ("a1.sources.r1.accessTokenSecret", true),
            ("a1.sources.r1.passwordFile", false),
            ("a1.sources.r1.port", false),
        ] {
            assert_eq!(is_secret(key), expected, "{key}");
        }
        let text =
            Diagnostic::error("a1.sources.r1.keystore-password", "too short").value("hunter2").to_string();
        assert_eq!(text, "error: a1.sources.r1.keystore-password = [secret]: too short");
    }
}
