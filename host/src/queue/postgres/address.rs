//! Where a database is: the URL, in which a password may stand that nobody is to see.

use std::fmt;
use std::time::Duration;

use dingtalk_binding::secret::Secret;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// For a connection until it can be used: its socket, TLS and the server's greeting.
pub(super) const CONNECT: Duration = Duration::from_secs(5);

/// The schema, where the URL names none.
const SCHEMA: &str = "dingtalk";

/// The beginnings of a URL.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// A database's URL as an operator has written it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: Secret,
    password: Option<Secret>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("address of a database")
    }
}

/// What a URL says.
pub(super) struct Target {
    pub(super) config: Config,
    /// For errors: nothing of the user.
    pub(super) name: String,
    /// The schema that is made if it is not there; without one, it is the first of the URL's search path.
    pub(super) schema: Option<&'static str>,
}

impl Address {
    /// Takes a URL. The error repeats nothing of it.
    ///
    /// # Errors
    ///
    /// If it is none of PostgreSQL.
    pub fn new(url: &str) -> Result<Self, String> {
        let address = Self { url: Secret::new(url.trim()), password: None };
        address.target()?;
        Ok(address)
    }

    /// With a password that does not stand in the URL.
    #[must_use]
    pub fn with_password(self, password: Secret) -> Self {
        Self { password: Some(password), ..self }
    }

    pub(super) fn target(&self) -> Result<Target, String> {
        let url = self.url.expose();
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Err("is no URL of PostgreSQL; write for example postgres://user@db.example:5432/dingtalk".into());
        }
        // What the client says about a URL that it cannot read may repeat a part of it, and that may be the password.
        let wrong = "cannot be read as a URL of PostgreSQL (user, password and database are percent-encoded; sslmode is \
                     disable, prefer or require); write for example postgres://user@db.example:5432/dingtalk?sslmode=require";
        let mut config: Config = url.parse().map_err(|_| wrong.to_owned())?;
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host; write for example postgres://user@db.example:5432/dingtalk".into());
        }
        if config.get_hosts().is_empty() && config.get_ssl_mode() == SslMode::Require {
            return Err(
                "has sslmode=require and no host whose name a certificate could have; write one beside hostaddr".into(),
            );
        }
        let Some(database) = config.get_dbname().or(config.get_user()).map(str::to_owned) else {
            return Err("names no database; write for example postgres://user@db.example:5432/dingtalk".into());
        };
        if config.get_user().is_none() {
            return Err("names no user; write for example postgres://user@db.example:5432/dingtalk".into());
        }
        if config.get_application_name().is_none() {
            config.application_name("dingtalk-host");
        }
        config.connect_timeout(config.get_connect_timeout().copied().unwrap_or(CONNECT).min(CONNECT));
        // A server whose machine is gone says nothing any more.
        config.tcp_user_timeout(super::pool::PATIENCE);
        config.keepalives_idle(super::pool::PATIENCE);
        let schema = match config.get_options() {
            Some(options) if options.contains("search_path") => None,
            _ => Some(SCHEMA),
        };
        Ok(Target { name: format!("database {} at {}", database.escape_debug(), hosts(&config)), config, schema })
    }
}

fn hosts(config: &Config) -> String {
    let named = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.escape_debug().to_string(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let named: Vec<String> = match config.get_hosts() {
        [] => config.get_hostaddrs().iter().map(ToString::to_string).collect(),
        _ => named.collect(),
    };
    let with_port = named.iter().enumerate().map(|(index, name)| {
        let port = config.get_ports().get(index).or(config.get_ports().first()).copied().unwrap_or(5432);
        format!("{name}:{port}")
    });
    with_port.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_named_without_user_and_password() {
        let target = |url: &str| Address::new(url).unwrap().target().unwrap();
        for (url, name) in [
            ("postgres://u:S3CR3T@db.example/robots", "database robots at db.example:5432"),
            ("postgresql://u:S3CR3T@[::1]:6000/robots?sslmode=require", "database robots at ::1:6000"),
            ("postgres://u:S3CR3T@a:1,b:2/robots", "database robots at a:1,b:2"),
            ("postgres:///robots?host=/run/postgresql&user=S3CR3T", "database robots at /run/postgresql:5432"),
            ("postgres://S3CR3T%0a@h/a%0ab", "database a\\nb at h:5432"),
        ] {
            assert_eq!(target(url).name, name, "{url}");
            assert!(!format!("{:?}", Address::new(url).unwrap()).contains("S3CR3T"));
        }
        assert_eq!(target("postgres://u@h/d").schema, Some("dingtalk"));
        assert_eq!(target("postgres://u@h/d?options=-c%20search_path%3Dother").schema, None);
        assert_eq!(target("postgres://u@h/d?connect_timeout=600").config.get_connect_timeout(), Some(&CONNECT));
        let with = Address::new("postgres://u@h/d").unwrap().with_password(Secret::new("S3CR3T"));
        assert_eq!(with.target().unwrap().config.get_password(), Some(&b"S3CR3T"[..]));
    }

    #[test]
    fn what_is_none_is_refused_and_not_repeated() {
        for (url, says) in [
            ("", "is no URL of PostgreSQL"),
            ("mysql://u:S3CR3T@h/d", "is no URL of PostgreSQL"),
            ("host=h user=S3CR3T", "is no URL of PostgreSQL"),
            ("postgres://u:S3CR3T@h:port/d", "cannot be read"),
            ("postgres://u:S3CR3T@h/d?S3CR3T=1", "cannot be read"),
            ("postgres://u:S3CR3T@h/d?sslmode=S3CR3T", "cannot be read"),
            ("postgres://u:S3CR3T@/d", "names no host"),
            ("postgres://h/S3CR3T", "names no user"),
            ("postgres://h", "names no database"),
            ("postgres://u:S3CR3T@/d?hostaddr=10.0.0.1&sslmode=require", "no host whose name a certificate could have"),
        ] {
            let error = Address::new(url).unwrap_err();
            assert!(error.contains(says) && !error.contains("S3CR3T"), "{url}: {error}");
        }
    }
}
