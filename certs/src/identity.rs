//! Who a certificate speaks for: the SPIFFE identities of agents and collectors, and their text form.

use std::fmt;
use std::str::FromStr;

/// The trust domain of a new authority unless another is given.
pub const DEFAULT_TRUST_DOMAIN: &str = "tributary.internal";

/// The instance of a certificate issued for a cluster without naming one.
pub const DEFAULT_INSTANCE: &str = "agent";

const MAX_NAME_BYTES: usize = 63;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const SCHEME: &str = "spiffe://";

/// What a leaf certificate says about its holder; the only source of a cluster's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `spiffe://<trust-domain>/cluster/<cluster>/agent/<instance>`
    Agent {
        /// The installation it belongs to.
        trust_domain: String,
        /// The cluster whose series it sends.
        cluster: String,
        /// Which of the cluster's agents it is.
        instance: String,
    },
    /// `spiffe://<trust-domain>/collector/<name>`
    Collector {
        /// The installation it belongs to.
        trust_domain: String,
        /// The collector's name.
        name: String,
    },
}

impl Identity {
    /// An agent's identity; checks every part.
    pub fn agent(
        trust_domain: &str,
        cluster: &str,
        instance: &str,
    ) -> Result<Self, InvalidIdentity> {
        check_trust_domain(trust_domain)?;
        check_cluster(cluster)?;
        check_instance(instance)?;
        Ok(Self::Agent {
            trust_domain: trust_domain.to_owned(),
            cluster: cluster.to_owned(),
            instance: instance.to_owned(),
        })
    }

    /// A collector's identity; checks every part.
    pub fn collector(trust_domain: &str, name: &str) -> Result<Self, InvalidIdentity> {
        check_trust_domain(trust_domain)?;
        if !is_name(name, |_| false) {
            return Err(InvalidIdentity::Collector(name.escape_debug().to_string()));
        }
        Ok(Self::Collector { trust_domain: trust_domain.to_owned(), name: name.to_owned() })
    }

    /// The installation the identity belongs to.
    pub fn trust_domain(&self) -> &str {
        match self {
            Self::Agent { trust_domain, .. } | Self::Collector { trust_domain, .. } => trust_domain,
        }
    }

    /// The identity in words, for messages: `agent "a" of cluster "c"`, `collector "x"`.
    pub fn describe(&self) -> String {
        match self {
            Self::Agent { cluster, instance, .. } => {
                format!("agent \"{instance}\" of cluster \"{cluster}\"")
            }
            Self::Collector { name, .. } => format!("collector \"{name}\""),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { trust_domain, cluster, instance } => {
                write!(f, "{SCHEME}{trust_domain}/cluster/{cluster}/agent/{instance}")
            }
            Self::Collector { trust_domain, name } => {
                write!(f, "{SCHEME}{trust_domain}/collector/{name}")
            }
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let unknown = || InvalidIdentity::Form(uri.escape_debug().to_string());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(unknown)?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().ok_or_else(unknown)?;
        let path: Vec<&str> = parts.collect();
        match path.as_slice() {
            ["cluster", cluster, "agent", instance] => Self::agent(trust_domain, cluster, instance),
            ["collector", name] => Self::collector(trust_domain, name),
            _ => Err(unknown()),
        }
    }
}

/// Refuses a cluster name that is not `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn check_cluster(name: &str) -> Result<(), InvalidIdentity> {
    if is_name(name, |_| false) {
        return Ok(());
    }
    Err(InvalidIdentity::Cluster(name.escape_debug().to_string()))
}

/// Refuses an instance name that is not `[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?`; host and pod names fit.
pub fn check_instance(name: &str) -> Result<(), InvalidIdentity> {
    if is_name(name, |b| matches!(b, b'.' | b'_')) {
        return Ok(());
    }
    Err(InvalidIdentity::Instance(name.escape_debug().to_string()))
}

/// Refuses a trust domain that SPIFFE would refuse.
pub fn check_trust_domain(name: &str) -> Result<(), InvalidIdentity> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let good = name.len() <= MAX_TRUST_DOMAIN_BYTES
        && name.bytes().all(allowed)
        && ends(name.bytes().next())
        && ends(name.bytes().last());
    if good {
        return Ok(());
    }
    Err(InvalidIdentity::TrustDomain(name.escape_debug().to_string()))
}

fn is_name(name: &str, extra: impl Fn(u8) -> bool) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|b| alphanumeric(b) || b == b'-' || extra(b))
        && name.bytes().next().is_some_and(alphanumeric)
        && name.bytes().last().is_some_and(alphanumeric)
}

/// Why a name or URI is not an identity; holds the text with control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Neither of the two forms.
    #[error(
        "\"{0}\" is neither spiffe://<trust-domain>/cluster/<cluster>/agent/<instance> nor \
         spiffe://<trust-domain>/collector/<name>"
    )]
    Form(String),
    /// The trust domain has other characters.
    #[error(
        "\"{0}\" is not a trust domain: use a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit"
    )]
    TrustDomain(String),
    /// Not a cluster name.
    #[error(
        "\"{0}\" is not a cluster name: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    Cluster(String),
    /// Not an instance name.
    #[error(
        "\"{0}\" is not an instance name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit"
    )]
    Instance(String),
    /// Not a collector's name.
    #[error(
        "\"{0}\" is not a collector name: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    Collector(String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_round_trip() {
        for uri in [
            "spiffe://tributary.internal/cluster/eu-1/agent/prometheus-0",
            "spiffe://td/cluster/a/agent/ip-10-0-0-1.ec2.internal",
            "spiffe://tributary.internal/collector/collector",
        ] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for uri in [
            "",
            "spiffe://",
            "spiffe://td",
            "SPIFFE://td/collector/a",
            "https://td/collector/a",
            "spiffe://td/collector/",
            "spiffe://td/collector/a/",
            "spiffe://td/collector/a/b",
            "spiffe://TD/collector/a",
            "spiffe://td:80/collector/a",
            "spiffe://u@td/collector/a",
            "spiffe:///collector/a",
            "spiffe://td/cluster/a",
            "spiffe://td/cluster/a/agent/",
            "spiffe://td/cluster/A/agent/b",
            "spiffe://td/cluster/../agent/b",
            "spiffe://td/cluster/%2e%2e/agent/b",
            "spiffe://td/cluster/a\0/agent/b",
            "spiffe://td/cluster/a/agent/..",
            "spiffe://td/cluster/a/agent/b?x=1",
            "spiffe://td/cluster/a/agent/b#x",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?}");
        }
    }

    proptest! {
        /// What is accepted has one spelling, and nothing that a path, a log line or a label could be broken with.
        #[test]
        fn what_is_accepted_is_written_the_same(
            uri in "spiffe://[a-z.]{1,4}(/cluster/[a-zA-Z0-9-]{1,4}/agent/[a-z0-9._-]{1,4}|/collector/[a-z0-9.-]{1,4})[/.]?\\PC?"
        ) {
            if let Ok(identity) = uri.parse::<Identity>() {
                prop_assert!(uri.split('/').all(|part| part != ".."));
                prop_assert!(uri.chars().all(|c| c.is_ascii_graphic()));
                prop_assert_eq!(identity.to_string(), uri);
            }
        }
    }
}
