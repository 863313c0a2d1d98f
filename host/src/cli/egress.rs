//! The flag for where bindings may connect to: what `serve` and `invoke` share.

use clap::Args;

use crate::egress::{Network, Policy};

#[derive(Debug, Clone, Args)]
pub(super) struct EgressArgs {
    /// Networks with private or loopback addresses that a name in `url` or `sessionWebhookHosts` may resolve to, for
    /// example 10.0.0.0/8. Separated by commas. An address, and localhost, need no permission.
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    egress_allow_networks: Vec<Network>,
}

impl EgressArgs {
    /// Where connections may lead.
    pub(super) fn policy(&self) -> Policy {
        Policy::allowing(&self.egress_allow_networks)
    }
}
