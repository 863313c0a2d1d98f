//! Which environment variables a component may see: Dapr's rules, which keep its own tokens out of components.

use std::ffi::OsString;

use dingtalk_binding::secret::Secret;

/// Reads an environment variable, which need not be a text; `None` if it is not set. Passed in, so that tests need not
/// change the process's environment.
pub type Environment<'a> = &'a (dyn Fn(&str) -> Option<OsString> + Sync);

/// The list of the variables that may be referred to, if it is set.
const ALLOW_LIST: &str = "DAPR_ENV_KEYS";

/// Whether `name` belongs to Dapr itself, `APP_API_TOKEN` or `DAPR_*`, or to this host, in any case.
fn is_daprs_own(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["APP_API_TOKEN", "DINGTALK_STORE"].contains(&name.as_str()) || name.starts_with("DAPR_")
}

/// The value of `name` for an `envRef`. The error is meant to follow the variable's name.
pub(super) fn env_ref(name: &str, environment: Environment<'_>) -> Result<Secret, String> {
    if name.contains(' ') {
        return Err("has a space in its name, which is not allowed; use another variable".into());
    }
    if let Some(list) = environment(ALLOW_LIST).filter(|list| !list.is_empty()) {
        // The start has refused a list that is no text.
        let listed = list.to_string_lossy().split([' ', ',']).any(|entry| entry.eq_ignore_ascii_case(name));
        if !listed && !is_daprs_own(name) {
            return Err(format!("is not in the allow-list {ALLOW_LIST}; add it there"));
        }
    }
    read(name, environment)
}

/// The value of `name` for the secret store of the environment, to which the allow-list does not apply. The
/// error is meant to follow the variable's name.
pub(super) fn read(name: &str, environment: Environment<'_>) -> Result<Secret, String> {
    if is_daprs_own(name) {
        return Err(
            "is one of Dapr's own or this host's (APP_API_TOKEN, DAPR_*, DINGTALK_STORE), which components may not \
                    read; use another variable"
                .into(),
        );
    }
    // What the operating system cannot have as a name is not set; asking for it may panic.
    let value = if name.is_empty() || name.contains(['=', '\0']) { None } else { environment(name) };
    match value.map(OsString::into_string) {
        None => Err("is not set; set it before the start".into()),
        Some(Ok(value)) if value.is_empty() => Err("is empty; set it before the start".into()),
        Some(Ok(value)) => Ok(Secret::new(value)),
        // Without what was there: it may be the beginning of a secret.
        Some(Err(_)) => Err("is not UTF-8; set it to UTF-8 text before the start".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
    }

    #[test]
    fn values_and_refusals() {
        let environment =
            of(&[("A", "1"), ("EMPTY", ""), ("DAPR_API_TOKEN", "t"), ("APP_API_TOKEN", "t"), ("dapr_x", "t")]);
        assert_eq!(env_ref("A", &environment).unwrap().expose(), "1");
        for (name, reason) in [
            ("B", "is not set"),
            ("EMPTY", "is empty"),
            ("", "is not set"),
            ("A=B", "is not set"),
            ("A B", "has a space"),
            ("DAPR_API_TOKEN", "is one of Dapr's own"),
            ("APP_API_TOKEN", "is one of Dapr's own"),
            ("app_api_token", "is one of Dapr's own"),
            ("dapr_x", "is one of Dapr's own"),
            ("DINGTALK_STORE", "is one of Dapr's own or this host's"),
        ] {
            let error = env_ref(name, &environment).unwrap_err();
            assert!(error.starts_with(reason), "{name}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_no_text_is_neither_missing_nor_shown() {
        use std::os::unix::ffi::OsStringExt;
        let environment = |name: &str| (name == "A").then(|| OsString::from_vec(b"S3CR3T\xff".to_vec()));
        for read in [env_ref("A", &environment), read("A", &environment)] {
            assert_eq!(read.unwrap_err(), "is not UTF-8; set it to UTF-8 text before the start");
        }
    }

    #[test]
    fn the_allow_list() {
        for list in ["A c", "A,c", "A, c"] {
            let environment = move |name: &str| Some(if name == ALLOW_LIST { list } else { "1" }.into());
            assert!(env_ref("A", &environment).is_ok());
            assert!(env_ref("C", &environment).is_ok(), "in any case");
            assert_eq!(env_ref("B", &environment).unwrap_err(), "is not in the allow-list DAPR_ENV_KEYS; add it there");
            assert!(env_ref("DAPR_ENV_KEYS", &environment).unwrap_err().starts_with("is one of Dapr's own"));
            assert!(read("B", &environment).is_ok(), "does not apply to the secret store");
        }
        let environment = of(&[("A", "1"), (ALLOW_LIST, "")]);
        assert!(env_ref("A", &environment).is_ok());
    }
}
