//! Which addresses are public, which belong to private networks, and which are never contacted.
//!
//! Source: IANA's IPv4 and IPv6 special-purpose address registries (RFC 6890 and its updates), and the metadata services of
//! the clouds, whose answers are credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is to a stranger who names it. Later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressReach {
    /// On the Internet.
    Public,
    /// This machine or its own network; the word says which part.
    Private(&'static str),
    /// Link-local, or a metadata service: no registry has business there.
    Never(&'static str),
}

use AddressReach::{Never, Private, Public};

/// The first row that matches decides, so that single addresses stand before the ranges around them.
const V4: &[([u8; 4], u32, AddressReach)] = &[
    ([169, 254, 0, 0], 16, Never("link-local")), // RFC 3927; 169.254.169.254 and ECS's 169.254.170.2 are in it
    ([100, 100, 100, 200], 32, Never("a cloud's metadata")), // Alibaba Cloud
    ([192, 0, 0, 192], 32, Never("a cloud's metadata")), // Oracle Cloud, its older address
    ([168, 63, 129, 16], 32, Never("a cloud's metadata")), // Azure's host agent, an address of the public range
    ([0, 0, 0, 0], 8, Private("unspecified")),   // RFC 791: "this network"; 0.0.0.0 connects to this machine
    ([10, 0, 0, 0], 8, Private("private")),      // RFC 1918
    ([100, 64, 0, 0], 10, Private("carrier-grade NAT")), // RFC 6598; Tailscale, and pods of some clouds
    ([127, 0, 0, 0], 8, Private("loopback")),    // RFC 1122
    ([172, 16, 0, 0], 12, Private("private")),   // RFC 1918
    ([192, 0, 0, 0], 24, Private("reserved")),   // RFC 6890: IETF protocol assignments
    ([192, 168, 0, 0], 16, Private("private")),  // RFC 1918
    ([198, 18, 0, 0], 15, Private("reserved for benchmarks")), // RFC 2544; used inside networks
    ([224, 0, 0, 0], 4, Private("multicast")),   // RFC 5771
    ([240, 0, 0, 0], 4, Private("reserved")),    // RFC 1112, and 255.255.255.255
];

const V6: &[([u16; 8], u32, AddressReach)] = &[
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Never("link-local")),              // RFC 4291
    ([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0], 32, Never("a cloud's metadata")), // AWS: ::254 metadata, ::23 pod identity
    ([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254], 128, Never("a cloud's metadata")), // Google Cloud
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Private("unspecified")),               // RFC 4291
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Private("loopback")),                  // RFC 4291
    ([0x0064, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Private("local-use NAT64")),  // RFC 8215
    ([0x0100, 0, 0, 0, 0, 0, 0, 0], 64, Private("reserved")),              // RFC 6666: discard
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Private("unique local")),           // RFC 4193
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Private("site-local")),            // RFC 3879, deprecated
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Private("multicast")),              // RFC 4291
];

/// Classifies an address, looking through the IPv6 forms that carry an IPv4 address.
pub(super) fn reach(ip: IpAddr) -> AddressReach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => embedded(ip).into_iter().flatten().map(reach_v4).fold(reach_v6(ip), |worst, next| {
            // The IPv6 row's word wins over an equally bad one inside it: `::1` is "loopback", not "unspecified".
            if rank(next) > rank(worst) { next } else { worst }
        }),
    }
}

fn rank(reach: AddressReach) -> u8 {
    match reach {
        Public => 0,
        Private(_) => 1,
        Never(_) => 2,
    }
}

fn reach_v4(ip: Ipv4Addr) -> AddressReach {
    let within = |net: [u8; 4], prefix: u32| (u32::from(ip) ^ u32::from(Ipv4Addr::from(net))).leading_zeros() >= prefix;
    V4.iter().find(|(net, prefix, _)| within(*net, *prefix)).map_or(Public, |row| row.2)
}

fn reach_v6(ip: Ipv6Addr) -> AddressReach {
    let within = |net: [u16; 8], prefix: u32| (u128::from(ip) ^ u128::from(Ipv6Addr::from(net))).leading_zeros() >= prefix;
    V6.iter().find(|(net, prefix, _)| within(*net, *prefix)).map_or(Public, |row| row.2)
}

/// The IPv4 addresses that an IPv6 address stands for: a gateway, a tunnel or the kernel may deliver to them.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let octets = ip.octets();
    let v4 = |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    match ip.segments() {
        // ::/96 IPv4-compatible (RFC 4291, deprecated), ::ffff:0:0/96 IPv4-mapped, ::ffff:0:0:0/96 translated (RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => [Some(v4(12)), None],
        // NAT64: the well-known prefix (RFC 6052), and the local-use one in its /96 form (RFC 8215).
        [0x0064, 0xff9b, 0, 0, 0, 0, _, _] | [0x0064, 0xff9b, 1, ..] => [Some(v4(12)), None],
        // 6to4 (RFC 3056).
        [0x2002, ..] => [Some(v4(2)), None],
        // Teredo (RFC 4380): the server in clear, the client with every bit turned.
        [0x2001, 0, ..] => [Some(v4(4)), Some(Ipv4Addr::from(!u32::from(v4(12))))],
        // ISATAP (RFC 5214) under any prefix.
        [_, _, _, _, 0 | 0x0200, 0x5efe, _, _] => [Some(v4(12)), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::6810:84e5",
            "2001:db9::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "2a00:1450:4001:80b::200e",
        ] {
            assert_eq!(reach(text.parse().unwrap()), Public, "{text}");
        }
    }

    #[test]
    fn private_addresses_are_private_in_every_form() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:192.168.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "2001:0:a00:1::1",
            "2001:0:808:808::80ff:fffe",
            "2001:470::5efe:10.0.0.1",
            "2001:470::200:5efe:127.0.0.1",
        ] {
            assert!(matches!(reach(text.parse().unwrap()), Private(_)), "{text}: {:?}", reach(text.parse().unwrap()));
        }
    }

    #[test]
    fn link_local_and_metadata_are_never() {
        for text in [
            "169.254.0.1",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::",
            "2001:0:a9fe:a9fe::1",
            "2001:470::5efe:169.254.169.254",
        ] {
            assert!(matches!(reach(text.parse().unwrap()), Never(_)), "{text}: {:?}", reach(text.parse().unwrap()));
        }
    }

    proptest! {
        #[test]
        fn an_embedded_address_is_never_better_than_itself(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            for v6 in [v4.to_ipv6_mapped(), Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(bits))] {
                prop_assert_eq!(rank(reach(v6.into())), rank(reach(v4.into())));
            }
        }
    }
}
