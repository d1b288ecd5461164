//! Kerberos properties of the thrift source and sink.

use std::path::PathBuf;

use super::{ParseContext, Property, PropertySpec};

/// `kerberos`
pub const KERBEROS: Property<bool> = Property::optional(
    "kerberos",
    "false",
    "Both sides prove by Kerberos who they are (SASL, GSSAPI, authentication only: add `ssl = true` against listeners). Needs the system's libgssapi_krb5.so.2; `/etc/krb5.conf` or `KRB5_CONFIG` names the realm.",
);
/// `agent-principal`
pub const AGENT_PRINCIPAL: Property<String> = Property::absent(
    "agent-principal",
    "With `kerberos = true`: who this source is, as service/host@REALM. `_HOST` becomes this machine's name.",
);
/// `agent-keytab`
pub const AGENT_KEYTAB: Property<PathBuf> =
    Property::absent("agent-keytab", "With `kerberos = true`: file with the keys of `agent-principal`.");
/// `client-principal`
pub const CLIENT_PRINCIPAL: Property<String> = Property::absent(
    "client-principal",
    "With `kerberos = true`: who this sink is. `_HOST` becomes this machine's name.",
);
/// `client-keytab`
pub const CLIENT_KEYTAB: Property<PathBuf> = Property::absent(
    "client-keytab",
    "With `kerberos = true`: file with the keys of `client-principal`. Tickets are got and renewed with it.",
);
/// `server-principal`
pub const SERVER_PRINCIPAL: Property<String> = Property::absent(
    "server-principal",
    "With `kerberos = true`: whom to deliver to, as service/host@REALM. `_HOST` becomes the host of the connection.",
);

/// A server's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKerberos {
    /// `agent-principal`
    pub principal: String,
    /// `agent-keytab`
    pub keytab: PathBuf,
}

/// A client's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKerberos {
    /// `client-principal`
    pub principal: String,
    /// `client-keytab`
    pub keytab: PathBuf,
    /// `server-principal`
    pub server: String,
}

/// Reads a server's settings; `None` after a complaint.
pub fn parse_server(cx: &mut ParseContext<'_>) -> Option<Option<ServerKerberos>> {
    let wanted = cx.get(&KERBEROS);
    let principal = cx.get_opt(&AGENT_PRINCIPAL);
    let keytab = cx.get_opt(&AGENT_KEYTAB);
    if !wanted? {
        return Some(None);
    }
    let principal = required(cx, &AGENT_PRINCIPAL, principal?, "flume/_HOST@EXAMPLE.ORG");
    let keytab = required(cx, &AGENT_KEYTAB, keytab?, "/etc/security/flume.keytab");
    let principal = service(cx, &AGENT_PRINCIPAL, principal?);
    Some(Some(ServerKerberos { principal: principal?, keytab: keytab? }))
}

/// Reads a client's settings; `None` after a complaint.
pub fn parse_client(cx: &mut ParseContext<'_>) -> Option<Option<ClientKerberos>> {
    let wanted = cx.get(&KERBEROS);
    let principal = cx.get_opt(&CLIENT_PRINCIPAL);
    let keytab = cx.get_opt(&CLIENT_KEYTAB);
    let server = cx.get_opt(&SERVER_PRINCIPAL);
    if !wanted? {
        return Some(None);
    }
    let principal = required(cx, &CLIENT_PRINCIPAL, principal?, "flume@EXAMPLE.ORG");
    let keytab = required(cx, &CLIENT_KEYTAB, keytab?, "/etc/security/flume.keytab");
    let server = required(cx, &SERVER_PRINCIPAL, server?, "flume/_HOST@EXAMPLE.ORG");
    let server = service(cx, &SERVER_PRINCIPAL, server?);
    Some(Some(ClientKerberos { principal: principal?, keytab: keytab?, server: server? }))
}

fn required<T: super::PropertyValue>(
    cx: &mut ParseContext<'_>,
    property: &Property<T>,
    value: Option<T>,
    example: &str,
) -> Option<T> {
    if value.is_none() {
        let hint = format!("add: {} = {example}", cx.full_key(property.name()));
        cx.error(property.name(), "is required with kerberos = true and not set", Some(hint));
    }
    value
}

/// A service's principal names its host, and at most one realm.
fn service(cx: &mut ParseContext<'_>, property: &Property<String>, value: String) -> Option<String> {
    let (name, realm) = value.split_once('@').unwrap_or((&value, "the default"));
    let (service, host) = name.split_once('/').unwrap_or((name, ""));
    if [service, host, realm].iter().any(|part| part.is_empty() || part.contains(['/', '@'])) {
        let hint = format!("for example: {} = flume/_HOST@EXAMPLE.ORG", cx.full_key(property.name()));
        cx.error(property.name(), "not a principal of the form service/host@REALM", Some(hint));
        return None;
    }
    Some(value)
}
