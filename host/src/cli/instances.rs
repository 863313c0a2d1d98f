//! The flag that says where a message's instance of the component comes from.

use clap::Args;

use crate::sandbox::Instances;

#[derive(Debug, Clone, Args)]
pub(super) struct InstancesArgs {
    /// Where a message's instance of the component comes from: rewound uses those of the same binding again, after writing
    /// back the memory that they had before any message; fresh makes one for each.
    #[arg(
        long, value_name = "INSTANCES", default_value = Instances::default().name(), value_parser = Instances::parse,
        env = "DINGTALK_INSTANCES"
    )]
    pub(super) instances: Instances,
}
