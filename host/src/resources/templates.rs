//! The templates of component metadata: `{uuid}`, `{podName}`, `{namespace}`, `{appID}`.

use uuid::Uuid;

/// Dapr's namespace where none is set.
const DEFAULT_NAMESPACE: &str = "default";

/// What the templates stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) pod_name: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) app_id: &'a str,
}

/// A value refers to `{podName}` and there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPodName;

/// Replaces the templates in `text`, in Dapr's order: `{uuid}` by a fresh one at each occurrence, `{podName}`,
/// `{namespace}` by `<namespace>.<app id>`, `{appID}`. What a replacement brings in is looked at by the later
/// ones only, so that no value can make this run forever.
pub(super) fn expand(text: String, values: Values<'_>, mut uuid: impl FnMut() -> Uuid) -> Result<String, NoPodName> {
    if !text.contains('{') {
        return Ok(text);
    }
    let mut pieces = text.split("{uuid}");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push_str(&uuid().to_string());
        text.push_str(piece);
    }
    if text.contains("{podName}") {
        text = text.replace("{podName}", values.pod_name.filter(|name| !name.is_empty()).ok_or(NoPodName)?);
    }
    let namespace = values.namespace.unwrap_or(DEFAULT_NAMESPACE);
    Ok(text.replace("{namespace}", &format!("{namespace}.{}", values.app_id)).replace("{appID}", values.app_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALUES: Values<'_> = Values { pod_name: Some("pod-1"), namespace: Some("prod"), app_id: "shop" };

    fn expanded(text: &str, values: Values<'_>) -> Result<String, NoPodName> {
        let mut count = 0;
        expand(text.to_owned(), values, || {
            count += 1;
            Uuid::from_u128(count)
        })
    }

    #[test]
    fn each_template() {
        assert_eq!(expanded("plain", VALUES).unwrap(), "plain");
        assert_eq!(expanded("{podName}/{namespace}/{appID}", VALUES).unwrap(), "pod-1/prod.shop/shop");
        assert_eq!(expanded("{namespace}", Values { namespace: None, ..VALUES }).unwrap(), "default.shop");
        assert_eq!(
            expanded("{uuid} {uuid}", VALUES).unwrap(),
            "00000000-0000-0000-0000-000000000001 00000000-0000-0000-0000-000000000002"
        );
        assert_eq!(expanded("{UUID} {unknown} {", VALUES).unwrap(), "{UUID} {unknown} {");
    }

    #[test]
    fn a_pod_name_that_is_missing() {
        for pod_name in [None, Some("")] {
            let values = Values { pod_name, ..VALUES };
            assert_eq!(expanded("{podName}", values), Err(NoPodName));
            assert_eq!(expanded("{appID}", values).unwrap(), "shop");
        }
    }

    #[test]
    fn replacements_are_not_replaced_forever() {
        let values = Values { pod_name: Some("{uuid}{podName}{appID}"), ..VALUES };
        assert_eq!(expanded("{podName}", values).unwrap(), "{uuid}{podName}shop");
    }

    proptest! {
        #[test]
        fn text_without_braces_stays(text in "[^{]*") {
            prop_assert_eq!(expanded(&text, VALUES).unwrap(), text);
        }
    }
}
