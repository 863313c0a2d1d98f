//! Names to addresses, those that a binding may reach: what the policy of [`super::address`] leaves.
//!
//! The check is here, and not before the request, because a name can resolve to another address each time: what
//! was checked is what the connection is made to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{io, vec};

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::address::{Kind, Network, Written};
use crate::event::BoxFuture;

/// Of one name, the addresses that are tried. They are tried one after the other within `connectTimeout`; no
/// honest name has as many.
const MAX_ADDRESSES: usize = 16;

/// Where connections may lead.
#[derive(Clone)]
pub struct Policy {
    networks: Arc<[Network]>,
    lookup: Arc<dyn Lookup>,
}

/// How names are resolved.
pub trait Lookup: Send + Sync {
    /// The addresses of `name`.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
struct System;

impl Lookup for System {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

impl Default for Policy {
    /// Public addresses; private and loopback ones where a `url` names the address or `localhost` itself.
    fn default() -> Self {
        Self { networks: Arc::new([]), lookup: Arc::new(System) }
    }
}

impl Policy {
    /// With the private and loopback addresses of `networks`, whatever name leads to them.
    pub fn allowing(networks: &[Network]) -> Self {
        Self { networks: networks.into(), ..Self::default() }
    }

    /// With names resolved by `lookup`.
    pub fn resolved_by(self, lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup, ..self }
    }

    /// Whether it is this one, or was cloned from it.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.networks, &other.networks) && Arc::ptr_eq(&self.lookup, &other.lookup)
    }

    /// Fails for a host that is an address which is never reached. Names are checked once they are resolved.
    pub(super) fn check_literal(&self, host: &str) -> Result<(), String> {
        match Written::of(host) {
            written @ Written::Address(ip) => written
                .permits(ip, &self.networks)
                .map_err(|kind| format!("{host} is {kind}, which no binding may reach; name another host")),
            Written::Localhost | Written::Name => Ok(()),
        }
    }
}

/// What the connector resolves names with.
#[derive(Clone)]
pub(super) struct Resolver {
    policy: Policy,
    trusted: bool,
}

impl Resolver {
    /// For the host of a binding's url.
    pub(super) fn checking(policy: &Policy) -> Self {
        Self { policy: policy.clone(), trusted: false }
    }

    /// For the proxy, which is the operator's own word.
    pub(super) fn trusting(policy: &Policy) -> Self {
        Self { policy: policy.clone(), trusted: true }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { policy, trusted } = self.clone();
        Box::pin(async move {
            let found = policy.lookup.lookup(name.as_str().to_owned()).await.map_err(ResolveError::Failed)?;
            let addresses = if trusted { found } else { permitted(name.as_str(), found, &policy.networks)? };
            // The connector sets the port.
            let addresses = addresses.into_iter().take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}

/// Of the addresses of `host`, those that may be reached; an error if there were only others. One of several does
/// not spoil the rest: whoever adds a forbidden address to a name gains nothing by it.
fn permitted(host: &str, found: Vec<IpAddr>, networks: &[Network]) -> Result<Vec<IpAddr>, ResolveError> {
    let host_lower = host.to_ascii_lowercase();
    let written = Written::of(&host_lower);
    let (mut permitted, mut refused) = (Vec::new(), Vec::new());
    for ip in found {
        match written.permits(ip, networks) {
            Ok(()) => permitted.push(ip),
            Err(kind) => refused.push((kind, ip)),
        }
    }
    if permitted.is_empty()
        // The one that can be allowed, if there is one: that is what the operator will want to read.
        && let Some((kind, ip)) = refused.into_iter().min_by_key(|(kind, _)| *kind)
    {
        return Err(ResolveError::Prohibited { host: host_lower, ip, kind });
    }
    Ok(permitted)
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("the name cannot be resolved: {0}")]
    Failed(io::Error),
    #[error("{host} resolves to {ip}, {kind}{}", advice(*kind, *ip))]
    Prohibited { host: String, ip: IpAddr, kind: Kind },
}

fn advice(kind: Kind, ip: IpAddr) -> String {
    if kind.is_never_reached() {
        return ", which no binding may reach; name another host, or correct its DNS".into();
    }
    format!(
        "; if that is meant, start the host with --egress-allow-networks {} or a network around it",
        ip.to_canonical()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &str) -> Vec<IpAddr> {
        list.split(' ').map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn forbidden_addresses_are_dropped_and_the_rest_is_used() {
        let found = ips("169.254.169.254 203.119.1.1 10.0.0.1 2400:3200::1 ::");
        let left = permitted("gateway.example.com", found.clone(), &[]).unwrap();
        assert_eq!(left, ips("203.119.1.1 2400:3200::1"));
        let left = permitted("gateway.example.com", found, &["10.0.0.0/8".parse().unwrap()]).unwrap();
        assert_eq!(left, ips("203.119.1.1 10.0.0.1 2400:3200::1"));
    }

    #[test]
    fn where_none_is_left_the_reason_is_what_the_operator_can_do() {
        let reason = |found| permitted("Gateway.Internal", ips(found), &[]).unwrap_err().to_string();
        assert_eq!(
            reason("169.254.169.254 ::ffff:10.1.2.3"),
            "gateway.internal resolves to ::ffff:10.1.2.3, a private address; if that is meant, start the host with \
             --egress-allow-networks 10.1.2.3 or a network around it"
        );
        assert_eq!(
            reason("169.254.169.254"),
            "gateway.internal resolves to 169.254.169.254, the address of a cloud's metadata service, which no binding \
             may reach; name another host, or correct its DNS"
        );
        // No address at all is the connector's error, not a prohibition.
        assert!(permitted("gateway.internal", Vec::new(), &[]).unwrap().is_empty());
    }

    #[test]
    fn a_literal_is_checked_without_a_resolver() {
        let policy = Policy::default();
        for host in ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.1.1]", "0.0.0.0", "[64:ff9b::a9fe:a9fe]"] {
            assert!(policy.check_literal(host).unwrap_err().contains("no binding may reach"), "{host}");
        }
        for host in ["127.0.0.1", "[::1]", "10.0.0.7", "localhost", "oapi.dingtalk.com", "metadata"] {
            policy.check_literal(host).unwrap();
        }
    }
}
