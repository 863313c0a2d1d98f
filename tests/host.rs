//! The host as a server of the shared tests.

use std::net::SocketAddr;

use crate::both::{Server, tests};
use crate::support::{Host, Resources, Robot, SECRET};

impl Server for Host {
    const APP_ID: &str = "dingtalk-host";

    fn serve(robot: &Robot, token: Option<&str>) -> Self {
        let environment: Vec<_> = token.map(|token| ("DAPR_API_TOKEN", token)).into_iter().collect();
        Host::serve_with(&Resources::of("mydingtalk", robot), &[], &environment)
    }

    fn with_application(robot: &Robot, properties: &[(&str, &str)], app: SocketAddr) -> Self {
        let url = robot.url();
        let all = [&[("id", "team"), ("secret", SECRET), ("url", &*url)], properties].concat();
        let port = app.port().to_string();
        // Longer than anything takes here.
        let arguments = ["--app-port", &port, "--callback-timeout", "60s"];
        Host::serve_with(&Resources::binding("team", &all), &arguments, &[])
    }

    fn address(&self) -> SocketAddr {
        Host::address(self)
    }

    fn log(&self) -> String {
        Host::log(self)
    }
}

tests!(Host);
