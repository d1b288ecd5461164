//! Kerberos through the system's GSSAPI library, loaded when a flow first asks for it.
//!
//! The program starts without the library; what is missing is said where it is needed. Every call here may
//! read files or ask a key server and so blocks: `kerberos` runs them on helper threads.

#![allow(unsafe_code, reason = "a C library, loaded at run time so that the program starts without it")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, OnceLock};

/// What MIT Kerberos calls its library on every distribution; Heimdal's has another ABI and another name.
const LIBRARY: &CStr = c"libgssapi_krb5.so.2";
const NOT_INSTALLED: &str = "the Kerberos library libgssapi_krb5.so.2 cannot be loaded; on Debian type: apt-get install libgssapi-krb5-2 (elsewhere: krb5-libs)";

/// RFC 2744 §3.9.1: bits of a major status that say that a call failed.
const ERRORS: u32 = 0xffff_0000;
const CONTINUE_NEEDED: u32 = 1;
const INDEFINITE: u32 = u32::MAX;
const INITIATE: c_int = 1;
const ACCEPT: c_int = 2;
const GSS_CODE: c_int = 1;
const MECH_CODE: c_int = 2;
/// Mutual authentication, replay detection, sequence, integrity: what a Kerberos hop has to have.
const FLAGS: u32 = 2 | 4 | 8 | 32;
/// Lines of an error message; the library has two or three.
const STATUS_LINES_MAX: usize = 8;

#[repr(C)]
struct Oid {
    length: u32,
    elements: *const c_void,
}
// SAFETY: it points at constant bytes.
unsafe impl Sync for Oid {}

/// 1.2.840.113554.1.2.2 and, with a further 1, the type of its principals' names (RFC 1964 §1 and §2.1.1).
static KRB5_BYTES: [u8; 10] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02, 0x01];
static KRB5: Oid = Oid { length: 9, elements: KRB5_BYTES.as_ptr().cast() };
static KRB5_PRINCIPAL: Oid = Oid { length: 10, elements: KRB5_BYTES.as_ptr().cast() };

#[repr(C)]
struct OidSet {
    count: usize,
    elements: *const Oid,
}
// SAFETY: as for `Oid`.
unsafe impl Sync for OidSet {}
static MECHANISMS: OidSet = OidSet { count: 1, elements: &raw const KRB5 };

#[repr(C)]
struct Buffer {
    length: usize,
    value: *mut c_void,
}

impl Buffer {
    fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len(), value: bytes.as_ptr().cast_mut().cast() }
    }
    const fn empty() -> Self {
        Self { length: 0, value: ptr::null_mut() }
    }
}

#[repr(C)]
struct KeyValue {
    key: *const c_char,
    value: *const c_char,
}

#[repr(C)]
struct Store {
    count: u32,
    elements: *const KeyValue,
}

type Handle = *mut c_void;

/// RFC 2744 and, for `gss_acquire_cred_from`, MIT's `gssapi_ext.h`.
macro_rules! library {
    ($($name:ident: fn($($argument:ty),*);)*) => {
        struct Library { $($name: unsafe extern "C" fn($($argument),*) -> u32,)* }
        impl Library {
            fn load() -> Result<Self, &'static str> {
                // SAFETY: a constant name with its end; the library stays loaded for ever.
                let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
                if library.is_null() {
                    return Err(NOT_INSTALLED);
                }
                $(
                    let name = concat!(stringify!($name), "\0");
                    // SAFETY: an open library and a name with its end.
                    let $name = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
                    if $name.is_null() {
                        return Err(concat!("the Kerberos library libgssapi_krb5.so.2 is too old: it has no ", stringify!($name)));
                    }
                    // SAFETY: the function of this name has this type.
                    let $name = unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> u32>($name)
                    };
                )*
                Ok(Self { $($name,)* })
            }
        }
    };
}

library! {
    gss_import_name: fn(*mut u32, *const Buffer, *const Oid, *mut Handle);
    gss_display_name: fn(*mut u32, Handle, *mut Buffer, *mut *const Oid);
    gss_release_name: fn(*mut u32, *mut Handle);
    gss_acquire_cred_from: fn(*mut u32, Handle, u32, *const OidSet, c_int, *const Store, *mut Handle, *mut *mut OidSet, *mut u32);
    gss_inquire_cred: fn(*mut u32, Handle, *mut Handle, *mut u32, *mut c_int, *mut *mut OidSet);
    gss_release_cred: fn(*mut u32, *mut Handle);
    gss_init_sec_context: fn(*mut u32, Handle, *mut Handle, Handle, *const Oid, u32, u32, *const c_void, *const Buffer, *mut *const Oid, *mut Buffer, *mut u32, *mut u32);
    gss_accept_sec_context: fn(*mut u32, *mut Handle, Handle, *const Buffer, *const c_void, *mut Handle, *mut *const Oid, *mut Buffer, *mut u32, *mut u32, *mut Handle);
    gss_delete_sec_context: fn(*mut u32, *mut Handle, *mut Buffer);
    gss_wrap: fn(*mut u32, Handle, c_int, u32, *const Buffer, *mut c_int, *mut Buffer);
    gss_unwrap: fn(*mut u32, Handle, *const Buffer, *mut Buffer, *mut c_int, *mut u32);
    gss_display_status: fn(*mut u32, u32, c_int, *const Oid, *mut u32, *mut Buffer);
    gss_release_buffer: fn(*mut u32, *mut Buffer);
}

fn library() -> Result<&'static Library, String> {
    static LOADED: OnceLock<Result<Library, &'static str>> = OnceLock::new();
    LOADED.get_or_init(Library::load).as_ref().map_err(|e| (*e).to_owned())
}

impl Library {
    /// The words for a failure.
    fn check(&self, major: u32, minor: u32) -> Result<(), String> {
        if major & ERRORS == 0 {
            return Ok(());
        }
        // What the mechanism says is the cause; the other is its class ("unspecified failure").
        let cause = self.status(minor, MECH_CODE);
        Err(if minor == 0 || cause.is_empty() { self.status(major, GSS_CODE) } else { cause })
    }

    fn status(&self, status: u32, kind: c_int) -> String {
        let (mut more, mut lines) = (0, Vec::new());
        while lines.len() < STATUS_LINES_MAX {
            let (mut minor, mut text) = (0, Buffer::empty());
            // SAFETY: all pointers are to live values of this frame; the text is released by `take`.
            let major = unsafe {
                (self.gss_display_status)(&mut minor, status, kind, &raw const KRB5, &mut more, &mut text)
            };
            let line = self.take(&mut text);
            if major & ERRORS != 0 {
                break;
            }
            lines.push(String::from_utf8_lossy(&line).into_owned());
            if more == 0 {
                break;
            }
        }
        lines.join(": ")
    }

    /// Copies what the library returned, and releases it.
    fn take(&self, buffer: &mut Buffer) -> Vec<u8> {
        if buffer.value.is_null() {
            return Vec::new();
        }
        // SAFETY: the library filled the buffer; nobody else knows it.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.value.cast::<u8>(), buffer.length) }.to_vec();
        let mut minor = 0;
        // SAFETY: as above; it is released once, since that empties it.
        unsafe { (self.gss_release_buffer)(&mut minor, buffer) };
        bytes
    }
}

/// The name of a principal, `service/host@REALM`.
struct Name {
    library: &'static Library,
    handle: Handle,
}

impl Name {
    fn import(library: &'static Library, principal: &str) -> Result<Self, String> {
        let (mut minor, mut handle) = (0, ptr::null_mut());
        let text = Buffer::of(principal.as_bytes());
        // SAFETY: live values; the library copies the text.
        let major =
            unsafe { (library.gss_import_name)(&mut minor, &text, &raw const KRB5_PRINCIPAL, &mut handle) };
        let name = Self { library, handle };
        library.check(major, minor)?;
        Ok(name)
    }
    fn text(&self) -> String {
        let (mut minor, mut text) = (0, Buffer::empty());
        // SAFETY: a live name; the type of the name is not asked for.
        unsafe { (self.library.gss_display_name)(&mut minor, self.handle, &mut text, ptr::null_mut()) };
        String::from_utf8_lossy(&self.library.take(&mut text)).into_owned()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            let mut minor = 0;
            // SAFETY: our own handle, released once.
            unsafe { (self.library.gss_release_name)(&mut minor, &mut self.handle) };
        }
    }
}

/// The keys of a principal: what it accepts with, or the tickets got with them.
pub struct Credential {
    library: &'static Library,
    handle: Handle,
}

// SAFETY: MIT Kerberos guards a credential by a lock of its own, and no handle depends on its thread.
unsafe impl Send for Credential {}
// SAFETY: as above.
unsafe impl Sync for Credential {}

impl Credential {
    /// Keys to accept with: reads the key table.
    ///
    /// # Errors
    /// Why not, in the library's words.
    pub fn acceptor(principal: &str, keytab: &Path) -> Result<Self, String> {
        Self::acquire(principal, ACCEPT, &[(c"keytab", &file(keytab)?)])
    }

    /// Tickets of a client, got with its keys and kept in memory under `cache`: asks the key server, unless the
    /// tickets in the cache are still in the first half of their time.
    ///
    /// # Errors
    /// Why not, in the library's words.
    pub fn initiator(principal: &str, keytab: &Path, cache: &str) -> Result<Self, String> {
        let cache = CString::new(format!("MEMORY:{cache}")).map_err(|e| e.to_string())?;
        let credential =
            Self::acquire(principal, INITIATE, &[(c"client_keytab", &file(keytab)?), (c"ccache", &cache)])?;
        // The library puts the question off until somebody wants to know.
        let (mut minor, mut lifetime) = (0, 0);
        // SAFETY: a live credential; only its lifetime is asked for.
        let major = unsafe {
            (credential.library.gss_inquire_cred)(
                &mut minor,
                credential.handle,
                ptr::null_mut(),
                &mut lifetime,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        credential.library.check(major, minor)?;
        Ok(credential)
    }

    fn acquire(principal: &str, usage: c_int, store: &[(&CStr, &CString)]) -> Result<Self, String> {
        let library = library()?;
        let name = Name::import(library, principal)?;
        let elements: Vec<_> =
            store.iter().map(|(key, value)| KeyValue { key: key.as_ptr(), value: value.as_ptr() }).collect();
        let store = Store { count: elements.len() as u32, elements: elements.as_ptr() };
        let (mut minor, mut handle) = (0, ptr::null_mut());
        // SAFETY: name, set and store live until the call returns, and it copies what it keeps.
        let major = unsafe {
            (library.gss_acquire_cred_from)(
                &mut minor,
                name.handle,
                INDEFINITE,
                &raw const MECHANISMS,
                usage,
                &store,
                &mut handle,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        let credential = Self { library, handle };
        library.check(major, minor)?;
        Ok(credential)
    }
}

fn file(path: &Path) -> Result<CString, String> {
    let mut text = b"FILE:".to_vec();
    text.extend_from_slice(path.as_os_str().as_encoded_bytes());
    CString::new(text).map_err(|e| e.to_string())
}

impl Drop for Credential {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            let mut minor = 0;
            // SAFETY: our own handle, released once.
            unsafe { (self.library.gss_release_cred)(&mut minor, &mut self.handle) };
        }
    }
}

/// What one step of the exchange came to.
pub struct Step {
    /// For the other side; may be empty.
    pub token: Vec<u8>,
    /// Nothing more is expected from the other side.
    pub established: bool,
}

/// One connection's exchange and what it agreed on.
pub struct Context {
    library: &'static Library,
    handle: Handle,
    credential: Arc<Credential>,
    /// Whom a client talks to; a server learns it from the client.
    peer: Option<Name>,
    initiator: bool,
}

// SAFETY: owned by one task at a time, and no handle depends on its thread.
unsafe impl Send for Context {}

impl Context {
    /// A client's, to the server with this principal.
    ///
    /// # Errors
    /// The principal is no name.
    pub fn initiator(credential: Arc<Credential>, server: &str) -> Result<Self, String> {
        let library = credential.library;
        let peer = Some(Name::import(library, server)?);
        Ok(Self { library, handle: ptr::null_mut(), credential, peer, initiator: true })
    }
    /// A server's.
    pub fn acceptor(credential: Arc<Credential>) -> Self {
        let library = credential.library;
        Self { library, handle: ptr::null_mut(), credential, peer: None, initiator: false }
    }

    /// Takes what the other side sent; nothing at the beginning of a client.
    ///
    /// # Errors
    /// Why the other side is not who it should be, in the library's words.
    pub fn step(&mut self, token: &[u8]) -> Result<Step, String> {
        let (mut minor, mut out) = (0, Buffer::empty());
        let input = Buffer::of(token);
        let major = if self.initiator {
            let peer = self.peer.as_ref().map_or(ptr::null_mut(), |p| p.handle);
            // SAFETY: live values; the context starts as null and is the library's from then on.
            unsafe {
                (self.library.gss_init_sec_context)(
                    &mut minor,
                    self.credential.handle,
                    &mut self.handle,
                    peer,
                    &raw const KRB5,
                    FLAGS,
                    INDEFINITE,
                    ptr::null(),
                    if token.is_empty() { ptr::null() } else { &input },
                    ptr::null_mut(),
                    &mut out,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            }
        } else {
            let mut peer = ptr::null_mut();
            // SAFETY: as above; delegated credentials are not asked for.
            let major = unsafe {
                (self.library.gss_accept_sec_context)(
                    &mut minor,
                    &mut self.handle,
                    self.credential.handle,
                    &input,
                    ptr::null(),
                    &mut peer,
                    ptr::null_mut(),
                    &mut out,
                    ptr::null_mut(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
            if !peer.is_null() {
                self.peer = Some(Name { library: self.library, handle: peer });
            }
            major
        };
        let token = self.library.take(&mut out);
        self.library.check(major, minor)?;
        Ok(Step { token, established: major & CONTINUE_NEEDED == 0 })
    }

    /// Signs a message.
    ///
    /// # Errors
    /// In the library's words.
    pub fn wrap(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (mut minor, mut out) = (0, Buffer::empty());
        // SAFETY: live values; integrity only, with the default algorithm.
        let major = unsafe {
            (self.library.gss_wrap)(
                &mut minor,
                self.handle,
                0,
                0,
                &Buffer::of(bytes),
                ptr::null_mut(),
                &mut out,
            )
        };
        let out = self.library.take(&mut out);
        self.library.check(major, minor)?;
        Ok(out)
    }

    /// Checks a signed message and gives its content.
    ///
    /// # Errors
    /// In the library's words.
    pub fn unwrap(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (mut minor, mut out) = (0, Buffer::empty());
        // SAFETY: live values; how it was protected is not asked for.
        let major = unsafe {
            (self.library.gss_unwrap)(
                &mut minor,
                self.handle,
                &Buffer::of(bytes),
                &mut out,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        let out = self.library.take(&mut out);
        self.library.check(major, minor)?;
        Ok(out)
    }

    /// The principal of the other side.
    pub fn peer(&self) -> String {
        self.peer.as_ref().map(Name::text).unwrap_or_default()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            let mut minor = 0;
            // SAFETY: our own handle, deleted once; no token for the other side.
            unsafe { (self.library.gss_delete_sec_context)(&mut minor, &mut self.handle, ptr::null_mut()) };
        }
    }
}
