//! What kind of place an IP address leads to, and whether a binding may connect to it.
//!
//! A name is a promise of whoever runs its zone: it can resolve to a cloud's metadata service, which hands out
//! the machine's credentials, or to a neighbour that trusts its network. So it is the address that is judged,
//! after resolving, for every connection. Pure functions; [`super::resolver`] asks them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where an address leads. In the order of caution: of an address that contains others, the last counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Anywhere else. 198.18.0.0/15 too: proxies that answer DNS themselves (fake-IP) give every name an address of
    /// it.
    Public,
    /// A company's, a provider's or a container network's own.
    Private,
    /// This machine.
    Loopback,
    /// "This network", which Linux takes for this machine.
    Unspecified,
    /// Everybody on the link.
    Broadcast,
    /// A group of machines.
    Multicast,
    /// The link alone; most clouds' metadata services are there.
    LinkLocal,
    /// Hands out the credentials of a cloud machine.
    Metadata,
}

/// Metadata services outside the link-local networks: Alibaba Cloud, Oracle Cloud (classic), Azure's host.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

impl Kind {
    /// The kind of `ip`. An IPv6 address that contains an IPv4 address, for a translator or a tunnel, is at least
    /// of that one's kind.
    ///
    /// ```
    /// use dingtalk_host::egress::Kind;
    ///
    /// let kind = |ip: &str| Kind::of(ip.parse().unwrap());
    /// assert_eq!(kind("203.119.1.1"), Kind::Public);
    /// assert_eq!(kind("::ffff:10.0.0.1"), Kind::Private);
    /// assert_eq!(kind("64:ff9b::169.254.169.254"), Kind::Metadata);
    /// ```
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => contained(ip).into_iter().map(of_v4).fold(of_v6(ip), Self::max),
        }
    }

    /// Whether no configuration makes it reachable.
    pub fn is_never_reached(self) -> bool {
        self >= Self::Unspecified
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::Broadcast => "the broadcast address",
            Self::Multicast => "a multicast address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the address of a cloud's metadata service",
        })
    }
}

fn of_v4(ip: Ipv4Addr) -> Kind {
    let [first, second, third, _] = ip.octets();
    if METADATA_V4.contains(&ip) {
        Kind::Metadata
    } else if ip.is_link_local() {
        Kind::LinkLocal
    } else if ip.is_multicast() {
        Kind::Multicast
    } else if ip.is_broadcast() {
        Kind::Broadcast
    } else if first == 0 {
        Kind::Unspecified
    } else if ip.is_loopback() {
        Kind::Loopback
    } else if ip.is_private() || is_shared(ip) || (first, second, third) == (192, 0, 0) || first >= 240 {
        // 192.0.0.0/24 is for protocols of the network itself, 240.0.0.0/4 what some clouds give to containers.
        Kind::Private
    } else {
        Kind::Public
    }
}

/// 100.64.0.0/10, behind a provider's NAT.
fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, 64..=127, ..])
}

fn of_v6(ip: Ipv6Addr) -> Kind {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        // Amazon's services for an instance (fd00:ec2::254 is the metadata), and Google's metadata.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => Kind::Metadata,
        [0xff00..=0xffff, ..] => Kind::Multicast,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        // Unique local, site-local (deprecated), and a network's own NAT64.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] | [0x0064, 0xff9b, 1, ..] => Kind::Private,
        _ => Kind::Public,
    }
}

/// The IPv4 addresses to which traffic for `ip` may go in the end. A network's own prefix for NAT64 or 6rd cannot
/// be told from any other.
fn contained(ip: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bits = ip.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "the lowest 32 bits are what is wanted")]
    let v4 = |bits: u128| Ipv4Addr::from_bits(bits as u32);
    match ip.segments() {
        // They are no IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // IPv4-compatible, -mapped and -translated (SIIT), and the well-known NAT64.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x0064, 0xff9b, 0, 0, 0, 0, ..] => {
            vec![v4(bits)]
        }
        // A network's own NAT64 has one of RFC 6052's layouts, which step over bits 64 to 71. What a wrong one
        // reads of the zeros around an address is none.
        [0x0064, 0xff9b, 1, ..] => {
            let joined = (bits >> 64 << 56) | (bits & ((1 << 56) - 1));
            let readings = [v4(joined >> 40), v4(joined >> 32), v4(joined >> 24), v4(bits)];
            readings.into_iter().filter(|ip| ip.octets()[0] != 0).collect()
        }
        // 6to4.
        [0x2002, ..] => vec![v4(bits >> 80)],
        // Teredo: the server, and the client, written inverted.
        [0x2001, 0, ..] => vec![v4(bits >> 64), v4(!bits)],
        // ISATAP.
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => vec![v4(bits)],
        _ => Vec::new(),
    }
}

/// Addresses with a common prefix, as in `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether `ip` is in it. An IPv4-mapped address is in the network of its IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v4(self.prefix) == 0,
            (IpAddr::V6(own), IpAddr::V6(ip)) if (own.to_bits() ^ ip.to_bits()) & mask_v6(self.prefix) == 0 => true,
            (IpAddr::V4(_), IpAddr::V6(mapped)) => {
                mapped.to_ipv4_mapped().is_some_and(|ip| self.contains(IpAddr::V4(ip)))
            }
            _ => false,
        }
    }

    fn first(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & mask_v4(self.prefix)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & mask_v6(self.prefix)).into(),
        }
    }

    fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | !mask_v4(self.prefix)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | !mask_v6(self.prefix)).into(),
        }
    }
}

fn mask_v4(prefix: u32) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let wrong = || format!("{text:?} is not a network; write for example 10.0.0.0/8, fd12::/16 or 10.1.2.3");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => whole,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= whole).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        let network = Self { address, prefix };
        let first = network.first();
        if first != address {
            return Err(format!("{text} has bits set after its prefix; write {first}/{prefix} or {address}"));
        }
        let kind = Kind::of(first);
        if kind.is_never_reached() && kind == Kind::of(network.last()) {
            return Err(format!("{text}: {kind} is never reached, whatever is allowed"));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// How a `url` writes its host, which tells whether its owner meant the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// An address: what is written is what is meant.
    Address(IpAddr),
    /// `localhost` or a name below it: this machine is meant.
    Localhost,
    /// Another name: whatever its zone says today.
    Name,
}

impl Written {
    /// Of the host of an origin: in lower case, IPv6 in brackets.
    pub(super) fn of(host: &str) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse() {
            Ok(ip) => Self::Address(ip),
            Err(_) if host == "localhost" || host.ends_with(".localhost") => Self::Localhost,
            Err(_) => Self::Name,
        }
    }

    /// Whether a connection to `ip` may be made, where the operator allows the private addresses of `networks`.
    /// The error is the reason.
    pub(super) fn permits(self, ip: IpAddr, networks: &[Network]) -> Result<(), Kind> {
        let kind = Kind::of(ip);
        let operator = || networks.iter().any(|network| network.contains(ip));
        let permitted = match kind {
            Kind::Public => true,
            Kind::Private => matches!(self, Self::Address(_)) || operator(),
            Kind::Loopback => self != Self::Name || operator(),
            _ => false,
        };
        if permitted { Ok(()) } else { Err(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_range_begins_and_ends_where_its_registry_says() {
        use Kind::*;
        for (text, kind) in [
            ("0.0.0.0", Unspecified),
            ("0.255.255.255", Unspecified),
            ("1.0.0.0", Public),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Public),
            ("100.100.100.200", Metadata),
            ("126.255.255.255", Public),
            ("127.0.0.0", Loopback),
            ("127.255.255.255", Loopback),
            ("128.0.0.0", Public),
            ("168.63.129.16", Metadata),
            ("168.63.129.17", Public),
            ("169.253.255.255", Public),
            ("169.254.0.0", LinkLocal),
            ("169.254.169.254", Metadata),
            ("169.254.255.255", LinkLocal),
            ("169.255.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.0.0.0", Private),
            ("192.0.0.192", Metadata),
            ("192.0.1.0", Public),
            ("192.167.255.255", Public),
            ("192.168.0.0", Private),
            ("192.168.255.255", Private),
            ("192.169.0.0", Public),
            ("198.18.0.1", Public),
            ("223.255.255.255", Public),
            ("224.0.0.0", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.0", Private),
            ("255.255.255.254", Private),
            ("255.255.255.255", Broadcast),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::2", Unspecified),
            ("::10.0.0.1", Private),
            ("::ffff:0.0.0.0", Unspecified),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:203.119.1.1", Public),
            ("::ffff:0:10.0.0.1", Private),
            ("64:ff9b::a00:1", Private),
            ("64:ff9b::cb77:101", Public),
            ("64:ff9b:1::cb77:101", Private),
            ("64:ff9b:1::169.254.169.254", Metadata),
            ("64:ff9b:1:a9fe:a9:fe00::", Metadata),
            ("64:ff9b:1:a9:fe:a9fe::", Metadata),
            ("64:ff9b:1:0:a9:fea9:fe00:0", Metadata),
            ("64:ff9b:2::", Public),
            ("2001::", Broadcast),
            ("2001:0:cb77:101:0:0:5601:5601", Metadata),
            ("2001:0:a9fe:a9fe:0:0:3488:fefe", Metadata),
            ("2001:0:cb77:101:0:0:3488:fefe", Public),
            ("2001:1::", Public),
            ("2002:a9fe:a9fe::1", Metadata),
            ("2002:7f00:1::", Loopback),
            ("2002:cb77:101::", Public),
            ("2400:3200::1", Public),
            ("2400:3200::5efe:127.0.0.1", Loopback),
            ("2400:3200::200:5efe:10.0.0.1", Private),
            ("fbff::", Public),
            ("fc00::", Private),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec3::254", Private),
            ("fd20:ce::254", Metadata),
            ("fdff:ffff::", Private),
            ("fe80::", LinkLocal),
            ("febf::", LinkLocal),
            ("fec0::", Private),
            ("feff::", Private),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(Kind::of(ip(text)), kind, "{text}");
        }
    }

    #[test]
    fn what_is_written_decides_about_private_addresses_and_never_about_forbidden_ones() {
        let networks: [Network; 2] = ["10.0.0.0/8".parse().unwrap(), "0.0.0.0/0".parse().unwrap()];
        for (host, address, alone, allowed) in [
            ("gateway.internal", "203.119.1.1", true, true),
            ("gateway.internal", "10.1.2.3", false, true),
            ("gateway.internal", "::ffff:10.1.2.3", false, true),
            ("gateway.internal", "127.0.0.1", false, true),
            ("gateway.internal", "fd12::1", false, false),
            ("gateway.internal", "169.254.169.254", false, false),
            ("10.1.2.3", "10.1.2.3", true, true),
            ("[fd12::1]", "fd12::1", true, true),
            ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1", true, true),
            ("100.100.100.200", "100.100.100.200", false, false),
            ("0.0.0.0", "0.0.0.0", false, false),
            ("localhost", "127.0.0.1", true, true),
            ("robot.localhost", "::1", true, true),
            ("localhost", "192.168.0.1", false, true),
            ("localhost", "255.255.255.255", false, false),
            ("notlocalhost", "127.0.0.1", false, true),
        ] {
            let written = Written::of(host);
            assert_eq!(written.permits(ip(address), &[]).is_ok(), alone, "{host} {address}");
            assert_eq!(written.permits(ip(address), &networks).is_ok(), allowed, "{host} {address}, with networks");
        }
    }

    #[test]
    fn a_network_that_makes_no_sense_is_refused_with_what_to_write() {
        for (text, reason) in [
            ("", "not a network"),
            ("private", "not a network"),
            ("10.0.0.0/", "not a network"),
            ("10.0.0.0/+8", "not a network"),
            ("10.0.0.0/33", "not a network"),
            ("10.0.0.0/99999999999", "not a network"),
            ("fd12::/129", "not a network"),
            ("10.1.2.3/8", "write 10.0.0.0/8 or 10.1.2.3"),
            ("169.254.0.0/16", "link-local address is never reached"),
            ("169.254.169.254", "metadata service is never reached"),
            ("224.0.0.0/4", "multicast address is never reached"),
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!("10.1.2.3".parse::<Network>().unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(" fd12::/16".parse::<Network>().unwrap().to_string(), "fd12::/16");
    }

    proptest! {
        #[test]
        fn no_form_of_an_address_is_less_than_the_address(bits: u32, tail: u64) {
            let v4 = Ipv4Addr::from_bits(bits);
            let (bits, tail) = (u128::from(bits), u128::from(tail));
            let forms = [
                bits,
                0xffff << 32 | bits,
                0xffff << 48 | bits,
                0x0064_ff9b << 96 | bits,
                0x0064_ff9b_0001 << 80 | bits,
                0x2002 << 112 | bits << 80 | tail,
                0x2001 << 112 | bits << 64 | tail,
                0x2001 << 112 | 0xcb77_0101 << 64 | (bits ^ 0xffff_ffff),
                0x2400_3200 << 96 | 0x5efe << 32 | bits,
            ];
            for form in forms.map(Ipv6Addr::from_bits) {
                // 0.0.0.1 in compatible form is ::1, and zeros behind a local NAT64 are no address.
                if form != Ipv6Addr::LOCALHOST && !(v4.octets()[0] == 0 && form.segments()[2] == 1) {
                    prop_assert!(Kind::of(form.into()) >= Kind::of(v4.into()), "{form} {v4}");
                }
            }
        }

        #[test]
        fn a_network_contains_what_has_its_first_bits(bits: u128, other: u128, prefix in 0_u32..=128) {
            let network = Network { address: Ipv6Addr::from_bits(bits).into(), prefix };
            let same = prefix == 0 || (bits ^ other) >> (128 - prefix) == 0;
            prop_assert_eq!(network.contains(Ipv6Addr::from_bits(other).into()), same);
            prop_assert!(network.contains(network.first()) && network.contains(network.last()));
            prop_assert!(!same || (network.first()..=network.last()).contains(&IpAddr::from(Ipv6Addr::from_bits(other))));
        }

        #[test]
        fn a_network_ends_with_its_last_address(bits: u32, host: u32, prefix in 0_u32..=32) {
            let network = Network { address: Ipv4Addr::from_bits(bits).into(), prefix };
            let other: IpAddr = Ipv4Addr::from_bits(bits & mask_v4(prefix) | host & !mask_v4(prefix)).into();
            prop_assert!(network.contains(other) && (network.first()..=network.last()).contains(&other));
        }

        #[test]
        fn no_list_of_networks_opens_what_is_never_reached(bits: u32, host in "[a-z]{1,5}|localhost|10\\.0\\.0\\.1") {
            let everything: Vec<Network> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
            let ip = IpAddr::V4(Ipv4Addr::from_bits(bits));
            prop_assert_eq!(Written::of(&host).permits(ip, &everything).is_err(), Kind::of(ip).is_never_reached());
        }
    }
}
