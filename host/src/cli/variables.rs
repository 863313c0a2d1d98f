//! The environment variables that are read. One that is not UTF-8 stops the start: read as if it were not set, a
//! token would protect nothing.

use std::env;
use std::ffi::OsString;

/// All of them, but for those that component files name, whose bindings say so, and paths, which are no text.
const READ: [&str; 21] = [
    "ALL_PROXY",
    "APP_API_TOKEN",
    "APP_ID",
    "DAPR_API_TOKEN",
    "DAPR_ENV_KEYS",
    "DAPR_GRPC_PORT",
    "DAPR_HTTP_PORT",
    "DAPR_LOG_LEVEL",
    "DINGTALK_INSTANCES",
    "DINGTALK_STORE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NAMESPACE",
    "NO_PROXY",
    "POD_NAME",
    // hyper-util's: in a CGI script HTTP_PROXY is a header of the request.
    "REQUEST_METHOD",
    // tokio's, which panics.
    "TOKIO_WORKER_THREADS",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The error names the first variable whose value is not UTF-8.
pub(super) fn check() -> Result<(), String> {
    all_utf8(|name| env::var_os(name))
}

fn all_utf8(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), String> {
    match READ.iter().find(|name| variable(name).is_some_and(|value| value.to_str().is_none())) {
        Some(name) => Err(format!("the environment variable {name} is not UTF-8; correct or unset it")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_of_the_command_line_is_checked() {
        fn variables(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()));
            own.chain(command.get_subcommands().flat_map(variables)).collect()
        }
        let variables = variables(&<super::super::Cli as clap::CommandFactory>::command());
        assert!(variables.contains(&"APP_API_TOKEN".to_owned()));
        for variable in variables {
            assert!(READ.contains(&variable.as_str()), "{variable}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf8_is_named_and_not_shown() {
        use std::os::unix::ffi::OsStringExt;
        for wrong in READ {
            let value = |name: &str| (name == wrong).then(|| OsString::from_vec(b"S3CR3T\xff".to_vec()));
            let error = all_utf8(value).unwrap_err();
            assert!(error.contains(wrong) && !error.contains("S3CR3T"), "{error}");
        }
        assert_eq!(all_utf8(|_| Some("value".into())), Ok(()));
        assert_eq!(all_utf8(|_| None), Ok(()));
    }
}
