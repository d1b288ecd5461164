//! Avro schemas, as far as it takes to find where a datum ends and what its schema's fingerprint is.

use std::collections::HashMap;

use serde_json::Value;

/// Nested types deeper than this are refused: data can nest as deep as a recursive schema lets it.
const DEPTH_MAX: usize = 64;

/// A type; named ones refer to [`Schema::named`].
#[derive(Clone, Debug)]
enum Type {
    Null,
    Fixed(usize),
    Varint,
    Bytes,
    Record(Vec<Type>),
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    Named(usize),
}

/// A parsed schema.
#[derive(Debug)]
pub struct Schema {
    root: Type,
    named: Vec<Type>,
    canonical: String,
}

/// Why a text is no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSchema(String);

fn bad(text: impl Into<String>) -> BadSchema {
    BadSchema(text.into())
}

impl Schema {
    /// Reads a schema in JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadSchema> {
        let value: Value = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let mut parser = Parser::default();
        let root = parser.read(&value, "", 0)?;
        let named = parser.named.into_iter().map(|t| t.unwrap_or(Type::Null)).collect();
        Ok(Self { root, named, canonical: parser.canonical })
    }

    /// CRC-64-AVRO of the parsing canonical form, as Avro writes it: little-endian, in hexadecimal.
    ///
    /// Avro specification, "Schema Fingerprints".
    pub fn fingerprint(&self) -> String {
        const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
        let step = |fp: u64, _| (fp >> 1) ^ (EMPTY & (fp & 1).wrapping_neg());
        let fingerprint = self
            .canonical
            .bytes()
            .fold(EMPTY, |fp, byte| (fp >> 8) ^ (0..8).fold((fp ^ u64::from(byte)) & 0xff, step));
        fingerprint.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Cuts one datum off the front; `None` if the bytes are not one.
    pub fn skip<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.skip_type(&self.root, bytes, 0)
    }

    fn skip_type<'a>(&self, what: &Type, bytes: &'a [u8], depth: usize) -> Option<&'a [u8]> {
        if depth > DEPTH_MAX {
            return None;
        }
        let each = |what: &Type, bytes| self.skip_type(what, bytes, depth + 1);
        match what {
            Type::Null => Some(bytes),
            Type::Fixed(size) => bytes.get(*size..),
            Type::Varint => long(bytes).map(|(_, rest)| rest),
            Type::Bytes => skip_bytes(bytes),
            Type::Record(fields) => fields.iter().try_fold(bytes, |rest, field| each(field, rest)),
            Type::Named(index) => each(self.named.get(*index)?, bytes),
            Type::Union(branches) => {
                let (index, rest) = long(bytes)?;
                each(branches.get(usize::try_from(index).ok()?)?, rest)
            }
            Type::Array(item) => skip_blocks(bytes, |rest| each(item, rest)),
            Type::Map(value) => skip_blocks(bytes, |rest| each(value, skip_bytes(rest)?)),
        }
    }
}

/// A zigzag number of variable length, and what follows.
pub fn long(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let number = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
            return Some((number, bytes.get(index + 1..)?));
        }
    }
    None
}

/// Bytes with their length before them, and what follows.
pub fn bytes(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = long(from)?;
    rest.split_at_checked(usize::try_from(size).ok()?)
}

fn skip_bytes(from: &[u8]) -> Option<&[u8]> {
    bytes(from).map(|(_, rest)| rest)
}

fn skip_blocks<'a>(
    mut bytes: &'a [u8],
    mut item: impl FnMut(&'a [u8]) -> Option<&'a [u8]>,
) -> Option<&'a [u8]> {
    loop {
        let (count, mut rest) = long(bytes)?;
        if count == 0 {
            return Some(rest);
        }
        if count < 0 {
            let (size, items) = long(rest)?;
            bytes = items.get(usize::try_from(size).ok()?..)?;
            continue;
        }
        for _ in 0..count {
            let before = rest.len();
            rest = item(rest)?;
            if rest.len() == before {
                // Items without size: however many there are, nothing more is to be skipped.
                break;
            }
        }
        bytes = rest;
    }
}

/// Reads a schema and writes its parsing canonical form on the way.
#[derive(Default)]
struct Parser {
    names: HashMap<String, usize>,
    named: Vec<Option<Type>>,
    canonical: String,
}

impl Parser {
    fn read(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<Type, BadSchema> {
        if depth > DEPTH_MAX {
            return Err(bad(format!("types nest deeper than {DEPTH_MAX}")));
        }
        match value {
            Value::String(name) => self.reference(name, namespace),
            Value::Array(branches) => {
                self.canonical.push('[');
                let types = self.list(branches, namespace, depth)?;
                self.canonical.push(']');
                Ok(Type::Union(types))
            }
            Value::Object(object) => {
                let text = |key: &str| object.get(key).and_then(Value::as_str);
                match object.get("type") {
                    Some(Value::String(kind)) => match kind.as_str() {
                        "record" | "error" | "enum" | "fixed" => {
                            self.definition(kind, value, namespace, depth)
                        }
                        "array" | "map" => {
                            let key = if kind == "array" { "items" } else { "values" };
                            let item = object.get(key).ok_or_else(|| bad(format!("{kind} without {key}")))?;
                            self.canonical.push_str(&format!("{{\"type\":\"{kind}\",\"{key}\":"));
                            let item = Box::new(self.read(item, namespace, depth + 1)?);
                            self.canonical.push('}');
                            Ok(if kind == "array" { Type::Array(item) } else { Type::Map(item) })
                        }
                        name => self.reference(name, text("namespace").unwrap_or(namespace)),
                    },
                    Some(inner) => self.read(inner, namespace, depth + 1),
                    None => Err(bad("a type without \"type\"")),
                }
            }
            other => Err(bad(format!("{other} is no type"))),
        }
    }

    fn list(&mut self, values: &[Value], namespace: &str, depth: usize) -> Result<Vec<Type>, BadSchema> {
        let mut types = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.canonical.push(',');
            }
            types.push(self.read(value, namespace, depth + 1)?);
        }
        Ok(types)
    }

    fn reference(&mut self, name: &str, namespace: &str) -> Result<Type, BadSchema> {
        let primitive = match name {
            "null" => Some(Type::Null),
            "boolean" => Some(Type::Fixed(1)),
            "int" | "long" => Some(Type::Varint),
            "float" => Some(Type::Fixed(4)),
            "double" => Some(Type::Fixed(8)),
            "bytes" | "string" => Some(Type::Bytes),
            _ => None,
        };
        let full = if primitive.is_some() { name.to_owned() } else { full_name(name, namespace) };
        self.canonical.push_str(&format!("\"{full}\""));
        match primitive {
            Some(primitive) => Ok(primitive),
            None => {
                let index = self.names.get(&full).ok_or_else(|| bad(format!("unknown type {full}")))?;
                Ok(Type::Named(*index))
            }
        }
    }

    fn definition(
        &mut self,
        kind: &str,
        value: &Value,
        namespace: &str,
        depth: usize,
    ) -> Result<Type, BadSchema> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let name = text("name").ok_or_else(|| bad(format!("{kind} without a name")))?;
        let full = full_name(name, text("namespace").unwrap_or(namespace));
        let own_namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let index = self.named.len();
        self.named.push(None);
        self.names.insert(full.clone(), index);
        self.canonical.push_str(&format!("{{\"name\":\"{full}\",\"type\":\"{kind}\""));
        let list = |key: &str| {
            value.get(key).and_then(Value::as_array).ok_or_else(|| bad(format!("{full} without {key}")))
        };
        let definition = match kind {
            "enum" => {
                let symbols: Vec<String> = list("symbols")?.iter().map(Value::to_string).collect();
                self.canonical.push_str(&format!(",\"symbols\":[{}]", symbols.join(",")));
                Type::Varint
            }
            "fixed" => {
                let size = value
                    .get("size")
                    .and_then(Value::as_u64)
                    .ok_or_else(|| bad(format!("{full} without size")))?;
                self.canonical.push_str(&format!(",\"size\":{size}"));
                Type::Fixed(size as usize)
            }
            _ => {
                let mut fields = Vec::new();
                self.canonical.push_str(",\"fields\":[");
                for (index, field) in list("fields")?.iter().enumerate() {
                    if index > 0 {
                        self.canonical.push(',');
                    }
                    let field_name =
                        field.get("name").ok_or_else(|| bad(format!("a field of {full} without name")))?;
                    self.canonical.push_str(&format!("{{\"name\":{field_name},\"type\":"));
                    let kind =
                        field.get("type").ok_or_else(|| bad(format!("a field of {full} without type")))?;
                    fields.push(self.read(kind, &own_namespace, depth + 1)?);
                    self.canonical.push('}');
                }
                self.canonical.push(']');
                Type::Record(fields)
            }
        };
        self.canonical.push('}');
        if let Some(slot) = self.named.get_mut(index) {
            *slot = Some(definition);
        }
        Ok(Type::Named(index))
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_and_fingerprint() {
        // The fingerprints of the Avro specification's own test cases.
        for (text, canonical, fingerprint) in [
            ("\"null\"", "\"null\"", 7_195_948_357_588_979_594u64),
            ("{\"type\":\"int\", \"doc\":\"x\"}", "\"int\"", 8_247_732_601_305_521_295),
        ] {
            let schema = Schema::parse(text).unwrap();
            assert_eq!(schema.canonical, canonical);
            let expected: String = fingerprint.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(schema.fingerprint(), expected, "{text}");
        }
        let text = r#"{"type":"record","name":"N","namespace":"a.b","doc":"d","fields":[
            {"type":["null","N"],"default":null,"name":"next"},{"name":"e","type":{"type":"enum","name":"E","symbols":["X"]}},
            {"name":"m","type":{"values":"bytes","type":"map"}},{"name":"f","type":{"type":"fixed","size":3,"name":"c.F"}}]}"#;
        assert_eq!(
            Schema::parse(text).unwrap().canonical,
            r#"{"name":"a.b.N","type":"record","fields":[{"name":"next","type":["null","a.b.N"]},{"name":"e","type":{"name":"a.b.E","type":"enum","symbols":["X"]}},{"name":"m","type":{"type":"map","values":"bytes"}},{"name":"f","type":{"name":"c.F","type":"fixed","size":3}}]}"#
        );
    }

    #[test]
    fn a_datum_is_skipped() {
        let text = r#"{"type":"record","name":"R","fields":[{"name":"s","type":"string"},{"name":"a","type":{"type":"array","items":"long"}},
            {"name":"u","type":["null","double"]},{"name":"m","type":{"type":"map","values":"boolean"}}]}"#;
        let schema = Schema::parse(text).unwrap();
        let datum = b"\x04hi\x04\x02\x80\x01\0\x02\0\0\0\0\0\0\0\0\x02\x02k\x01\0";
        let mut data = datum.to_vec();
        data.extend_from_slice(b"rest");
        assert_eq!(schema.skip(&data), Some(&b"rest"[..]));
        for size in 0..datum.len() {
            assert_eq!(schema.skip(&datum[..size]), None, "{size}");
        }
    }

    #[test]
    fn hostile_schemas_and_data_are_refused() {
        for text in ["", "{}", "\"unknown\"", "{\"type\":\"record\",\"name\":\"x\"}", "7"] {
            assert!(Schema::parse(text).is_err(), "{text}");
        }
        assert!(Schema::parse(&"{\"type\":\"array\",\"items\":".repeat(100)).is_err());
        let list =
            Schema::parse(r#"{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"]}]}"#)
                .unwrap();
        assert_eq!(list.skip(&[2; 1000]), None);
        let nulls = Schema::parse(r#"{"type":"array","items":"null"}"#).unwrap();
        assert_eq!(nulls.skip(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\0x"), Some(&b"x"[..]));
    }
}
