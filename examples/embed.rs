//! The host as a library: one message through the sandbox, without a server, files or a command line of flags.
//!
//! ```console
//! $ dingtalk-host simulate --secret SECsimulated
//! $ cargo run --package dingtalk-host --example embed -- \
//!     "http://127.0.0.1:8099/robot/send?access_token=simulated-access-token" SECsimulated "Hi"
//! ```

use std::error::Error;

use dingtalk_host::{COMPONENT, Egress, Limits, Proxies, Request, Sandbox, Settings, clock};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, secret, text] = arguments.as_slice() else { return Err("usage: embed URL SECRET TEXT".into()) };

    // Once: compiled, with a pool of memory for all calls.
    let sandbox = Sandbox::new(COMPONENT, Limits::default(), clock::system())?;

    // For each robot: its properties, and the one way out that they allow.
    let properties = [("id", "alerts"), ("url", url.as_str()), ("secret", secret.as_str())];
    let settings = Settings::parse(properties)?;
    let egress = Egress::new("alerts", &settings, &Proxies::from_env())?;
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let robot = sandbox.tenant(properties.to_vec(), egress, settings.timeout);

    // For each call: an instance of its own. An error says whether the message can have arrived.
    let request = Request { operation: "create".into(), data: text.clone().into_bytes(), metadata: Vec::new() };
    let response = sandbox.invoke(&robot, request, None).await?;
    for (name, value) in response.metadata {
        println!("{name}: {value}");
    }
    Ok(())
}
