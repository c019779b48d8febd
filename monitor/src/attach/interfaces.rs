//! The node's interfaces and addresses, by rtnetlink.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};

/// A network interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// The loopback interface.
    pub loopback: bool,
    /// Its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Id of the XDP program that is attached.
    pub xdp_program: Option<u32>,
}

impl Interface {
    /// Whether it is still there under this name.
    pub fn exists(&self) -> bool {
        std::ffi::CString::new(self.name.as_str()).is_ok_and(|name| {
            // SAFETY: the name ends with zero and lives until the call returns.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            index == self.index
        })
    }
}

/// The interfaces that are up, by index.
///
/// # Errors
/// The kernel does not answer.
pub async fn list(handle: &Handle) -> Result<Vec<Interface>> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.context("listing the network interfaces")?;
    Ok(links.iter().filter_map(interface).collect())
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    if !link.header.flags.contains(LinkFlags::Up) {
        return None;
    }
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let xdp_program = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(words) => words.iter().find_map(|word| match word {
            LinkXdp::ProgId(id) if *id != 0 => Some(*id),
            _ => None,
        }),
        _ => None,
    });
    let kind = link.header.link_layer_type;
    Some(Interface {
        index: link.header.index,
        name,
        loopback: kind == LinkLayerType::Loopback,
        ethernet: matches!(kind, LinkLayerType::Ether | LinkLayerType::Loopback),
        xdp_program,
    })
}

/// The addresses of this node's interfaces.
///
/// # Errors
/// The kernel does not answer.
pub async fn addresses(handle: &Handle) -> Result<Vec<IpAddr>> {
    let messages: Vec<_> =
        handle.address().get().execute().try_collect().await.context("listing this node's addresses")?;
    // `Local` is the node's own end of a point-to-point link, where `Address` is the other.
    let own = messages.iter().filter_map(|message| {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })
    });
    let mut own: Vec<IpAddr> = own.filter(|address| !address.is_loopback()).collect();
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

/// Which interfaces are to be watched: names, and patterns with `*` and `?`; none means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    /// Whether an interface of this name is to be watched.
    pub fn wants(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    }

    /// Makes sure that each plain name is there; a pattern may match nothing yet.
    ///
    /// # Errors
    /// Names the interface that is not there, and those that are.
    pub fn check(&self, interfaces: &[Interface]) -> Result<()> {
        for pattern in &self.0 {
            let plain = !pattern.contains(['*', '?']);
            if plain && !interfaces.iter().any(|interface| interface.name == *pattern) {
                let there: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
                bail!("--interface {pattern}: no such interface is up; there are {}", there.join(", "));
            }
        }
        Ok(())
    }
}

/// Whether `name` is what `pattern` says: `*` for any bytes, `?` for one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[position] => {
                at += 1;
                position += 1;
            }
            _ => match &mut star {
                Some((star, taken)) => {
                    *taken += 1;
                    (at, position) = (*star + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth0", true),
            ("eth*", "veth0", false),
            ("*eth*", "veth0", true),
            ("e*0", "eth10", true),
            ("e*0", "eth1", false),
            ("eth?", "eth1", true),
            ("eth?", "eth", false),
            ("*", "", true),
            ("", "", true),
            ("a*b*c", "axxbxbxc", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        assert!(Patterns::default().wants("lo"));
    }

    #[test]
    fn an_absent_name_is_named_with_those_that_are_there() {
        let lo = Interface { index: 1, name: "lo".to_owned(), loopback: true, ethernet: true, xdp_program: None };
        let error = Patterns(vec!["eth9".to_owned()]).check(std::slice::from_ref(&lo)).expect_err("absent");
        assert_eq!(error.to_string(), "--interface eth9: no such interface is up; there are lo");
        assert!(Patterns(vec!["eth*".to_owned(), "lo".to_owned()]).check(&[lo]).is_ok());
    }
}
