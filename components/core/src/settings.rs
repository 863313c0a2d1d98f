//! Environment → robots: which there are, what their properties are, and which variable is wrong.
//!
//! The environment is the only configuration that every HTTP runtime for components offers. A variable that nobody
//! knows is an error: a misspelt secret would otherwise be a robot that sends unsigned.

use std::collections::BTreeMap;
use std::fmt;

use dingtalk_api::caller::{Allowed, Names};
use dingtalk_api::delivery::application::Application;
use dingtalk_api::status::ErrorStatus;
use dingtalk_binding::error::PropertyError;
use dingtalk_binding::json::quoted;
use dingtalk_binding::secret::{Secret, redact};
use dingtalk_binding::settings::{PROPERTIES, Settings};

/// What all variables of ours begin with.
const PREFIX: &str = "DINGTALK_";

/// The names of the bindings, separated by commas.
pub const BINDINGS: &str = "DINGTALK_BINDINGS";

/// Who may call without a token.
pub const NAMES: Names = Names { hosts: "DINGTALK_ALLOWED_HOSTS", origins: "DINGTALK_ALLOWED_ORIGINS" };

/// Variables for the components behind the binding: what hands messages to an application, and what remembers them.
const BEHIND: [&str; 3] = ["DINGTALK_APP_URL", "DINGTALK_APP_TIMEOUT", "DINGTALK_STORE"];

/// The form of a failed operation's status.
const ERROR_STATUS: &str = "DINGTALK_ERROR_STATUS";

/// What clients must send.
const TOKEN: &str = "DAPR_API_TOKEN";

/// Between a binding's name and a property: no property has two underscores, and no two variables can be meant for one.
const SEPARATOR: &str = "__";

/// The longest name of a binding, that of a label in Kubernetes.
const MAX_NAME: usize = 63;

/// A variable that is missing or cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its name.
    pub variable: String,
    /// What is wrong and what to do; never its value.
    pub reason: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variable {}: {}", self.variable, self.reason)
    }
}

fn wrong<T>(variable: impl Into<String>, reason: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { variable: variable.into(), reason: reason.into() })
}

/// Who may call, which is known whatever else is wrong.
#[derive(Debug)]
pub struct Callers {
    /// Our own name.
    pub app_id: String,
    /// What clients must send, if anything.
    pub token: Option<Secret>,
    /// Who may call without.
    pub allowed: Allowed,
}

impl Callers {
    /// Reads the variables that decide it.
    pub fn of(environment: &[(String, String)]) -> Self {
        let value = |name| value(environment, name).unwrap_or_default();
        let list =
            |name| value(name).split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
        Self {
            app_id: Some(value("APP_ID")).filter(|id| !id.is_empty()).unwrap_or("dingtalk-gateway").to_owned(),
            token: Some(value(TOKEN)).filter(|token| !token.is_empty()).map(Secret::new),
            allowed: Allowed { hosts: list(NAMES.hosts), origins: list(NAMES.origins) },
        }
    }
}

fn value<'e>(environment: &'e [(String, String)], name: &str) -> Option<&'e str> {
    environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The robots, by name.
#[derive(Debug)]
pub struct Robots<'e> {
    by_name: BTreeMap<&'e str, Robot<'e>>,
    /// The form of a failed operation's status, unless the call chooses.
    pub status: ErrorStatus,
}

/// One robot: the properties of one binding.
#[derive(Clone)]
pub struct Robot<'e> {
    name: &'e str,
    properties: Vec<(&'static str, &'e str)>,
}

impl fmt::Debug for Robot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "robot {:?} with {} properties", self.name, self.properties.len())
    }
}

impl<'e> Robots<'e> {
    /// Reads the environment. What a property may be is not looked at yet: one robot that is wrong must not keep the
    /// others from working.
    pub fn of(environment: &'e [(String, String)]) -> Result<Self, Wrong> {
        let listed = value(environment, BINDINGS).unwrap_or_default();
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        for (index, name) in listed.split(',').map(str::trim).filter(|name| !name.is_empty()).enumerate() {
            if !is_name(name) {
                // Not shown: it may be a value that was meant for another variable.
                let reason = format!(
                    "name {} is none; write at most {MAX_NAME} small letters, digits and single hyphens, a letter or digit \
                     at both ends",
                    index + 1
                );
                return wrong(BINDINGS, reason);
            }
            if let Some(other) = names.insert(in_variables(name), name) {
                return wrong(BINDINGS, format!("{other} and {name} are the same in names of variables; change one"));
            }
        }
        if names.is_empty() {
            return wrong(BINDINGS, "is missing or empty; list the names of your bindings, separated by commas");
        }
        let mut robots = BTreeMap::new();
        for name in names.values() {
            // Towards the input side a binding is called what it is called in paths.
            robots.insert(*name, Robot { name, properties: vec![("id", *name)] });
        }
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
            if [BINDINGS, ERROR_STATUS, NAMES.hosts, NAMES.origins].iter().chain(&BEHIND).any(|known| known == variable)
            {
                continue;
            }
            let Some((name, property)) = rest.split_once(SEPARATOR) else {
                return wrong(variable, "is not known; a property's variable is DINGTALK_<NAME>__<PROPERTY>");
            };
            let Some(robot) = names.get(name).and_then(|name| robots.get_mut(name)) else {
                return wrong(variable, format!("is for a binding that is not in {BINDINGS}; add its name there"));
            };
            let known = PROPERTIES.iter().find(|known| **known != "id" && snake(known) == property);
            let Some(known) = known else {
                let all: Vec<String> =
                    PROPERTIES.iter().filter(|known| **known != "id").map(|known| snake(known)).collect();
                return wrong(variable, format!("is not known; after {SEPARATOR} stands one of {}", all.join(", ")));
            };
            // What was to come from a secret that is not there must not be a robot that sends unsigned.
            if value.trim().is_empty() {
                return wrong(variable, "is empty; give it a value, or remove it");
            }
            robot.properties.push((known, value));
        }
        let status = match value(environment, ERROR_STATUS) {
            Some(text) => ErrorStatus::parse(text).or_else(|what| wrong(ERROR_STATUS, what))?,
            None => ErrorStatus::default(),
        };
        Ok(Self { by_name: robots, status })
    }

    /// The robot called `name`.
    pub fn get(&self, name: &str) -> Option<&Robot<'e>> {
        self.by_name.get(name)
    }

    /// In the order of their names.
    pub fn names(&self) -> impl Iterator<Item = &'e str> {
        self.by_name.keys().copied()
    }

    /// Whether every robot can be one, and the application too.
    pub fn check(&self, environment: &[(String, String)]) -> Result<(), Wrong> {
        Application::of(environment).map_err(|(variable, reason)| Wrong { variable: variable.into(), reason })?;
        if value(environment, TOKEN).is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return wrong(TOKEN, "has white space or other characters that no client can send; take them out");
        }
        self.by_name.values().try_for_each(|robot| robot.settings().map(|_| ()).map_err(|error| robot.wrong(&error)))
    }
}

impl Robot<'_> {
    /// What it is called.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The properties as the binding will read them.
    pub fn settings(&self) -> Result<Settings, PropertyError> {
        Settings::parse(self.properties.iter().copied())
    }

    /// What the binding is initialised with.
    pub fn properties(&self) -> Vec<(String, String)> {
        self.properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Which variable an error of a property speaks of, and why, without the value: in an environment a secret is easily
    /// given to the wrong variable.
    pub fn wrong(&self, error: &PropertyError) -> Wrong {
        let value = self.properties.iter().find(|(name, _)| *name == error.property).map_or("", |(_, value)| value);
        let reason = error.reason.replace(&quoted(value), "the value");
        let reason = redact(&reason, value.split(',').map(str::trim).chain([value]));
        let variable = match error.property.as_str() {
            "id" => BINDINGS.to_owned(),
            property => format!("{PREFIX}{}{SEPARATOR}{}", in_variables(self.name), snake(property)),
        };
        Wrong { variable, reason }
    }
}

/// A label of Kubernetes' (RFC 1123), without two hyphens in a row.
fn is_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= MAX_NAME
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
        // It would be a separator.
        && !name.contains("--")
}

/// A binding's name within a variable's: `team-a` is `TEAM_A`.
fn in_variables(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// A property's name within a variable's: `appSecret` is `APP_SECRET`.
fn snake(property: &str) -> String {
    let mut snake = String::new();
    for c in property.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: &str = "https://oapi.dingtalk.com/robot/send?access_token=S3CR3TT0K3N";

    fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        let environment = environment(variables);
        Robots::of(&environment).and_then(|robots| robots.check(&environment)).unwrap_err().to_string()
    }

    #[test]
    fn several_robots() {
        let environment = environment(&[
            ("PATH", "/bin"),
            ("DINGTALK_BINDINGS", "team, team-app ,9,"),
            ("DINGTALK_TEAM__URL", URL),
            ("DINGTALK_TEAM__APP_SECRET", "one"),
            ("DINGTALK_TEAM_APP__SECRET", "two"),
            ("DINGTALK_TEAM_APP__URL", URL),
            ("DINGTALK_9__SESSION_WEBHOOK_HOSTS", "a.example"),
            ("DINGTALK_9__URL", URL),
            ("DINGTALK_APP_URL", "http://127.0.0.1:6001"),
        ]);
        let robots = Robots::of(&environment).unwrap();
        assert_eq!(robots.check(&environment), Ok(()));
        assert_eq!(robots.names().collect::<Vec<_>>(), ["9", "team", "team-app"]);
        let properties = |name: &str| {
            let mut properties = robots.get(name).unwrap().properties();
            properties.sort();
            properties.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(properties("team"), ["appSecret", "id", "url"]);
        assert_eq!(properties("team-app"), ["id", "secret", "url"]);
        assert_eq!(properties("9"), ["id", "sessionWebhookHosts", "url"]);
        assert!(robots.get("TEAM").is_none());
        assert!(!format!("{robots:?}").contains("S3CR3T"));
    }

    #[test]
    fn every_property_has_a_variable() {
        for property in PROPERTIES.iter().filter(|property| **property != "id") {
            let variable = format!("DINGTALK_A__{}", snake(property));
            let environment = environment(&[("DINGTALK_BINDINGS", "a"), (&variable, "x")]);
            let robots = Robots::of(&environment).expect(&variable);
            assert_eq!(robots.get("a").unwrap().properties()[1].0, *property);
        }
    }

    #[test]
    fn the_variable_that_is_wrong_is_named_and_its_value_is_not_shown() {
        let names = ("DINGTALK_BINDINGS", "team");
        for (variables, expected) in [
            (&[][..], "DINGTALK_BINDINGS: is missing or empty"),
            (&[("DINGTALK_BINDINGS", " , ")], "DINGTALK_BINDINGS: is missing or empty"),
            (&[("DINGTALK_BINDINGS", "Team")], "DINGTALK_BINDINGS: name 1 is none"),
            (&[("DINGTALK_BINDINGS", "a,S3CR3T")], "DINGTALK_BINDINGS: name 2 is none"),
            (&[("DINGTALK_BINDINGS", "a,b,a")], "DINGTALK_BINDINGS: a and a are the same"),
            (&[names], "DINGTALK_TEAM__URL: "),
            (&[("DINGTALK_BINDINGS", "a--b")], "DINGTALK_BINDINGS: name 1 is none"),
            (&[names, ("DINGTALK_TEAM__URL", URL), ("DINGTALK_TEAM__SECRET", "")], "DINGTALK_TEAM__SECRET: is empty"),
            (&[names, ("DINGTALK_TEAM__URL", URL), ("DINGTALK_APP_URL", "S3CR3T")], "DINGTALK_APP_URL: is no address"),
            (&[names, ("DINGTALK_TEAM__URL", URL), ("DAPR_API_TOKEN", "S3CR3T\n")], "DAPR_API_TOKEN: has white space"),
            (&[names, ("DINGTALK_TEAM__SECERT", "S3CR3T")], "DINGTALK_TEAM__SECERT: is not known"),
            (&[names, ("DINGTALK_TEAM_SECRET", "S3CR3T")], "DINGTALK_TEAM_SECRET: is not known"),
            (&[names, ("DINGTALK_TEAM__ID", "S3CR3T")], "DINGTALK_TEAM__ID: is not known"),
            (&[names, ("DINGTALK_OTHER__SECRET", "S3CR3T")], "DINGTALK_OTHER__SECRET: is for a binding that is not in"),
            (&[names, ("DINGTALK_TEAM__URL", "ftp://S3CR3T")], "DINGTALK_TEAM__URL: "),
            (
                &[names, ("DINGTALK_TEAM__URL", URL), ("DINGTALK_TEAM__TIMEOUT", "S3CR3T")],
                "DINGTALK_TEAM__TIMEOUT: the value is not a duration",
            ),
            (
                &[
                    names,
                    ("DINGTALK_TEAM__URL", URL),
                    ("DINGTALK_TEAM__SESSION_WEBHOOK_HOSTS", "a.example, user@S3CR3T"),
                ],
                "DINGTALK_TEAM__SESSION_WEBHOOK_HOSTS: ",
            ),
            (
                &[names, ("DINGTALK_TEAM__URL", URL), ("DINGTALK_TEAM__PREVIOUS_APP_SECRET", "S3CR3T")],
                "DINGTALK_TEAM__PREVIOUS_APP_SECRET: ",
            ),
        ] {
            let error = refused(variables);
            assert!(error.starts_with(&format!("environment variable {expected}")), "{variables:?}: {error}");
            assert!(!error.contains("S3CR3T"), "{error}");
        }
    }

    #[test]
    fn one_robot_that_is_wrong_leaves_the_others() {
        let environment =
            environment(&[("DINGTALK_BINDINGS", "a,b"), ("DINGTALK_A__URL", "ftp://a"), ("DINGTALK_B__URL", URL)]);
        let robots = Robots::of(&environment).unwrap();
        assert!(robots.get("b").is_some());
        assert_eq!(robots.check(&environment).unwrap_err().variable, "DINGTALK_A__URL");
    }

    proptest! {
        #[test]
        fn no_value_is_shown(property in 1..PROPERTIES.len(), value in "[ -~]{4,30}") {
            let variable = format!("DINGTALK_A__{}", snake(PROPERTIES[property]));
            let mut variables = vec![("DINGTALK_BINDINGS", "a"), (&*variable, &*value)];
            if PROPERTIES[property] != "url" {
                variables.push(("DINGTALK_A__URL", URL));
            }
            let environment = environment(&variables);
            if let Err(wrong) = Robots::of(&environment).unwrap().check(&environment) {
                prop_assert!(!wrong.reason.contains(&value), "{}", wrong);
            }
        }
    }

    #[test]
    fn callers() {
        let of = |variables| Callers::of(&environment(variables));
        let usual = of(&[]);
        assert_eq!((usual.app_id.as_str(), usual.token), ("dingtalk-gateway", None));
        assert!(usual.allowed.hosts.is_empty() && usual.allowed.origins.is_empty());
        let set = of(&[
            ("APP_ID", "shop"),
            ("DAPR_API_TOKEN", "t"),
            ("DINGTALK_ALLOWED_HOSTS", "a, b,"),
            ("DINGTALK_ALLOWED_ORIGINS", "*"),
        ]);
        assert_eq!((set.app_id.as_str(), set.token), ("shop", Some(Secret::new("t"))));
        assert_eq!((set.allowed.hosts, set.allowed.origins), (vec!["a".to_owned(), "b".into()], vec!["*".to_owned()]));
    }
}
