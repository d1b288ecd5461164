//! `ipFilterRules`: who may connect to an avro source.
//!
//! Flume: `AvroSource` over Netty's `RuleBasedIpFilter`. First matching rule wins; no match: allowed.

use std::net::IpAddr;

use regex::Regex;

/// One rule.
#[derive(Clone, Debug)]
struct Rule {
    allow: bool,
    by_name: bool,
    pattern: Regex,
}

/// All rules, in order.
#[derive(Clone, Debug)]
pub struct IpFilter {
    rules: Vec<Rule>,
}

impl IpFilter {
    /// Reads `allow|deny:ip|name:<pattern>` rules separated by commas.
    ///
    /// # Errors
    /// The rule that is wrong, and how it should look.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rules = text.split(',').map(str::trim).filter(|r| !r.is_empty()).map(parse_rule);
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() { Err("no rule".to_owned()) } else { Ok(Self { rules }) }
    }
    /// True if a rule needs the peer's host name.
    pub fn needs_name(&self) -> bool {
        self.rules.iter().any(|r| r.by_name)
    }
    /// True if the peer may connect. `local` says that the address is one of this host's own.
    pub fn allows(&self, address: IpAddr, name: Option<&str>, local: bool) -> bool {
        let text = address.to_canonical().to_string();
        let matching = self.rules.iter().find(|rule| {
            if rule.by_name {
                name.is_some_and(|n| rule.pattern.is_match(n))
                    || (local && rule.pattern.is_match("localhost"))
            } else {
                rule.pattern.is_match(&text)
            }
        });
        matching.is_none_or(|rule| rule.allow)
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let wrong = || format!("rule `{text}` is not <allow or deny>:<ip or name>:<pattern>");
    let mut parts = text.splitn(3, ':');
    let allow = match parts.next() {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err(wrong()),
    };
    let by_name = match parts.next() {
        Some("ip") => false,
        Some("name") => true,
        _ => return Err(wrong()),
    };
    let pattern = parts.next().filter(|p| !p.is_empty()).ok_or_else(wrong)?;
    let regex = regex::escape(pattern).replace(r"\*", ".*").replace(r"\?", ".");
    let pattern = Regex::new(&format!("^(?:{regex})$")).map_err(|e| e.to_string())?;
    Ok(Rule { allow, by_name, pattern })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_match_wins() {
        let filter =
            IpFilter::parse("allow:ip:127.*, allow:name:localhost,deny:ip:10.0.?.1,deny:name:*.evil")
                .unwrap();
        let allows = |ip: &str, name| filter.allows(ip.parse().unwrap(), name, false);
        assert!(allows("127.0.0.1", None));
        assert!(allows("::ffff:127.0.0.1", None));
        assert!(!allows("10.0.5.1", None));
        assert!(allows("10.0.55.1", None), "? is one character");
        assert!(allows("10x0x5x1".replace('x', ".").replace("5.1", "5.10").as_str(), None), "full match");
        assert!(!allows("192.0.2.1", Some("host.evil")));
        assert!(allows("192.0.2.1", Some("host.good")), "no rule: allowed");
        let local = IpFilter::parse("allow:name:localhost,deny:ip:*").unwrap();
        assert!(local.allows("127.0.0.1".parse().unwrap(), None, true));
        assert!(!local.allows("192.0.2.1".parse().unwrap(), None, false));
        assert!(!IpFilter::parse("deny:ip:127.0.0.1").unwrap().needs_name() && local.needs_name());
    }

    #[test]
    fn wrong_rules_are_named() {
        for text in ["", " , ", "allow", "allow:ip", "Allow:ip:*", "allow:host:*", "permit:ip:*", "allow:ip:"]
        {
            assert!(IpFilter::parse(text).is_err(), "{text}");
        }
    }
}
