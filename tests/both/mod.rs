//! What whoever serves the API must do: the tests of these files run against the host, and against the gateway in a
//! runtime that is not ours.

pub mod api;
pub mod bare;
pub mod callbacks;

use std::net::SocketAddr;

use crate::support::{Reply, Robot, send};

/// Whoever serves the API.
pub trait Server: Sized {
    /// What it calls itself, unless it is told.
    const APP_ID: &str;

    /// With one binding, `mydingtalk`, of `robot`; clients must send `token`, if there is one.
    fn serve(robot: &Robot, token: Option<&str>) -> Self;

    /// With the binding `team` of `robot`, these properties of it, and an application at `app`.
    fn with_application(robot: &Robot, properties: &[(&str, &str)], app: SocketAddr) -> Self;

    fn address(&self) -> SocketAddr;

    /// Everything that it has written for whoever runs it.
    fn log(&self) -> String;

    /// Calls `operation` of `binding` with `data`, which is JSON.
    fn invoke(&self, binding: &str, operation: &str, data: &str) -> Reply {
        self.post(binding, &format!(r#"{{"operation":"{operation}","data":{data}}}"#))
    }

    /// Posts `body` to `binding`.
    fn post(&self, binding: &str, body: &str) -> Reply {
        send(self.address(), "POST", &format!("/v1.0/bindings/{binding}"), &[], body.as_bytes())
    }
}

/// Every test, of the server `$server`.
macro_rules! tests {
    ($server:ty) => {
        $crate::both::tests!($server, api:
            the_specifications_create_request_is_posted_signed_and_answered_200_with_an_empty_body
            the_specifications_get_request_fails_because_nothing_reads
            post_and_put_do_the_same
            the_content_type_of_a_request_does_not_matter
            data_reaches_the_robot_as_it_was_written
            a_body_that_cannot_be_decoded_is_malformed_and_nothing_is_sent
            an_undecodable_body_is_found_before_an_unknown_name
            a_body_in_chunks_is_one_body
            a_client_that_waits_for_100_continue_is_told_to_go_on
            the_operation_is_checked_before_the_name_and_the_name_before_the_kind_of_operation
            names_are_compared_with_regard_to_case
            an_error_of_the_component_comes_with_its_metadata_as_headers_and_as_details
            what_dingtalk_says_cannot_add_a_header
            slashes_in_a_path_are_cleaned_up
            another_method_or_path_is_a_service_invocation_without_a_target
            a_body_is_read_with_the_habits_of_gos_decoder
            with_a_token_everything_but_health_asks_for_it
            health_is_204_unless_asked_about_another_application
            trace_headers_are_taken_and_invalid_baggage_is_refused
            one_connection_serves_many_requests_whatever_their_answer
        );
        $crate::both::tests!($server, bare:
            a_body_is_posted_as_it_is
            what_is_no_object_is_what_it_is_as_data
            metadata_comes_from_the_query
            a_query_that_is_not_metadata_alone_is_malformed_and_nothing_is_sent
            checks_have_the_order_and_the_answers_of_the_envelope
            it_needs_the_token_that_there_is
            get_hands_on_the_body_as_it_is
        );
        $crate::both::tests!($server, callbacks:
            a_genuine_callback_reaches_the_application_byte_for_byte_and_its_answer_comes_back
            forgeries_are_refused_alike_and_the_application_sees_none
            what_the_application_does_not_take_is_not_acknowledged
            get_brings_the_application_s_answer
            what_a_caller_of_get_says_is_no_message_of_dingtalk_s
            what_is_no_callback_is_refused_as_documented
            nothing_secret_is_answered_or_logged
        );
    };
    ($server:ty, $module:ident: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::both::$module::$name::<$server>();
            }
        )*
    };
}
pub(crate) use tests;
