//! dingtalk-gateway.wasm: the API of the host in a runtime that knows nothing of DingTalk.

use dingtalk_components::{GATEWAY, GATEWAY_OPEN, GATEWAY_P3};

use crate::gateways::tests;
use crate::output::functions;
use crate::runtime::Gateway;

tests!(Gateway);

const ENVIRONMENT: &str = "wasi:cli/environment@0.2.12";
const HANDLER: &str = "dingtalk:binding/handler@0.2.0";

#[test]
fn its_imports_are_what_every_http_runtime_offers() {
    let standard = [
        ENVIRONMENT,
        "wasi:cli/stderr@0.2.12",
        "wasi:clocks/monotonic-clock@0.2.12",
        "wasi:clocks/wall-clock@0.2.12",
        "wasi:http/outgoing-handler@0.2.12",
        "wasi:http/types@0.2.12",
        "wasi:io/error@0.2.12",
        "wasi:io/poll@0.2.12",
        "wasi:io/streams@0.2.12",
    ];
    let [imports, exports] = functions(GATEWAY);
    assert_eq!(imports, standard);
    assert_eq!(exports, ["wasi:http/incoming-handler@0.2.12"]);
    let [mut imports, exports] = functions(GATEWAY_OPEN);
    assert_eq!(imports.remove(0), HANDLER);
    assert_eq!(imports, standard);
    assert_eq!(exports, ["wasi:http/incoming-handler@0.2.12"]);
}

#[test]
fn the_one_for_wasi_0_3_imports_wasi_0_3_alone() {
    let [imports, exports] = functions(GATEWAY_P3);
    let standard = [
        "wasi:cli/environment@0.3.0",
        "wasi:cli/stderr@0.3.0",
        "wasi:clocks/monotonic-clock@0.3.0",
        "wasi:clocks/system-clock@0.3.0",
        "wasi:http/client@0.3.0",
        "wasi:http/types@0.3.0",
    ];
    assert_eq!(imports, standard);
    assert_eq!(exports, ["wasi:http/handler@0.3.0"]);
}
