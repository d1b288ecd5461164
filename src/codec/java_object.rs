//! Objects as Java's `ObjectOutputStream` writes them, as far as key stores hold them.
//!
//! Format: the Java Object Serialization Specification, chapter 6. Strings, arrays of bytes, enumeration
//! constants and objects with default fields are read; what a class writes by itself is skipped to its end.

use std::rc::Rc;

/// Deepest nesting that is read; key stores nest three levels.
const DEPTH_MAX: usize = 16;
/// Most objects and classes that can be referred to; key stores have a dozen.
const HANDLES_MAX: usize = 1024;

/// A value in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// A string.
    Text(Rc<str>),
    /// `byte[]`.
    Bytes(Rc<[u8]>),
    /// An object: its class and its fields.
    Object(Rc<Object>),
    /// A number, a truth value, a class: nothing that is looked at.
    Other,
}

/// An object's content.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// Full class name.
    pub class: Rc<str>,
    fields: Vec<(Rc<str>, Value)>,
}

impl Object {
    /// A field that holds bytes.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.field(name)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
    /// A field that holds a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.field(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| &**field == name).map(|(_, value)| value)
    }
}

struct Class {
    name: Rc<str>,
    flags: u8,
    /// Type code and name.
    fields: Vec<(u8, Rc<str>)>,
    parent: Option<Rc<Class>>,
}

#[derive(Clone)]
enum Handle {
    Class(Rc<Class>),
    Value(Value),
}

/// Reads the first object of a stream, and what follows it. `None` if it is damaged or holds something that
/// is not read here.
pub fn read(bytes: &[u8]) -> Option<(Rc<Object>, &[u8])> {
    let rest = bytes.strip_prefix(&[0xac, 0xed, 0, 5])?;
    let mut reader = Reader { rest, handles: Vec::new() };
    match reader.value(0)? {
        Value::Object(object) => Some((object, reader.rest)),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    handles: Vec<Handle>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(size)?;
        self.rest = tail;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        Some(*self.take(1)?.first()?)
    }
    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<Rc<str>> {
        let size = self.u16()?;
        Some(String::from_utf8_lossy(self.take(size.into())?).into())
    }
    fn remember(&mut self, handle: Handle) -> Option<usize> {
        (self.handles.len() < HANDLES_MAX).then(|| {
            self.handles.push(handle);
            self.handles.len() - 1
        })
    }
    fn referred(&mut self) -> Option<Handle> {
        let index = self.u32()?.checked_sub(0x7e_0000)?;
        self.handles.get(index as usize).cloned()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.u8()? {
            0x70 => Some(Value::Null),
            0x71 => match self.referred()? {
                Handle::Value(value) => Some(value),
                Handle::Class(_) => Some(Value::Other),
            },
            0x73 => {
                let class = self.class(depth + 1)??;
                let own = self.remember(Handle::Value(Value::Other))?;
                let mut fields = Vec::new();
                self.fields(&class, &mut fields, depth + 1)?;
                let value = Value::Object(Rc::new(Object { class: class.name.clone(), fields }));
                *self.handles.get_mut(own)? = Handle::Value(value.clone());
                Some(value)
            }
            0x74 => {
                let value = Value::Text(self.text()?);
                self.remember(Handle::Value(value.clone()))?;
                Some(value)
            }
            0x75 => {
                let class = self.class(depth + 1)??;
                let own = self.remember(Handle::Value(Value::Other))?;
                let count = self.u32()? as usize;
                if &*class.name != "[B" {
                    return None;
                }
                let value = Value::Bytes(self.take(count)?.into());
                *self.handles.get_mut(own)? = Handle::Value(value.clone());
                Some(value)
            }
            0x7e => {
                self.class(depth + 1)??;
                let own = self.remember(Handle::Value(Value::Other))?;
                let name = self.value(depth + 1)?;
                *self.handles.get_mut(own)? = Handle::Value(name.clone());
                Some(name)
            }
            _ => None,
        }
    }

    /// A class description; inner `None` for `null`.
    fn class(&mut self, depth: usize) -> Option<Option<Rc<Class>>> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.u8()? {
            0x70 => Some(None),
            0x71 => match self.referred()? {
                Handle::Class(class) => Some(Some(class)),
                Handle::Value(_) => None,
            },
            0x72 => {
                let name = self.text()?;
                self.take(8)?;
                let own = self.remember(Handle::Value(Value::Other))?;
                let flags = self.u8()?;
                let mut fields = Vec::new();
                for _ in 0..self.u16()? {
                    let code = self.u8()?;
                    let field = self.text()?;
                    if matches!(code, b'[' | b'L') {
                        self.value(depth + 1)?;
                    }
                    fields.push((code, field));
                }
                self.skip_annotation(depth)?;
                let parent = self.class(depth + 1)?;
                let class = Rc::new(Class { name, flags, fields, parent });
                *self.handles.get_mut(own)? = Handle::Class(class.clone());
                Some(Some(class))
            }
            _ => None,
        }
    }

    /// The fields of an object: those of its parents first.
    fn fields(&mut self, class: &Class, found: &mut Vec<(Rc<str>, Value)>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        if let Some(parent) = &class.parent {
            self.fields(parent, found, depth + 1)?;
        }
        // 2 = default fields, 1 = followed by what the class wrote itself.
        if class.flags & 2 == 0 {
            return None;
        }
        for (code, name) in &class.fields {
            let value = match code {
                b'B' | b'Z' => self.take(1).map(|_| Value::Other)?,
                b'C' | b'S' => self.take(2).map(|_| Value::Other)?,
                b'I' | b'F' => self.take(4).map(|_| Value::Other)?,
                b'J' | b'D' => self.take(8).map(|_| Value::Other)?,
                b'[' | b'L' => self.value(depth + 1)?,
                _ => return None,
            };
            found.push((name.clone(), value));
        }
        if class.flags & 1 != 0 {
            self.skip_annotation(depth)?;
        }
        Some(())
    }

    /// What a class wrote by itself, to its end mark.
    fn skip_annotation(&mut self, depth: usize) -> Option<()> {
        loop {
            match *self.rest.first()? {
                0x78 => return self.u8().map(drop),
                0x77 => {
                    self.u8()?;
                    let size = self.u8()?;
                    self.take(size.into())?;
                }
                0x7a => {
                    self.u8()?;
                    let size = self.u32()?;
                    self.take(size as usize)?;
                }
                _ => drop(self.value(depth + 1)?),
            }
        }
    }
}
