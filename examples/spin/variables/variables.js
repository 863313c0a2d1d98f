// Spin's variables as environment variables: the gateway reads the latter, and Spin's stores of secrets reach the former.
//
// Names of variables are in small letters with single underscores: `dingtalk_team_app_secret` becomes
// DINGTALK_TEAM__APP_SECRET. A variable that is not declared, or empty, is not set.

import { get } from 'fermyon:spin/variables@2.0.0';

const COMMON = [
  'dingtalk_bindings',
  'dingtalk_app_url',
  'dingtalk_app_timeout',
  'dingtalk_store',
  'dingtalk_error_status',
  'dingtalk_allowed_hosts',
  'dingtalk_allowed_origins',
  'dapr_api_token',
  'app_api_token',
  'app_id',
];
const PROPERTIES = [
  'url',
  'secret',
  'app_secret',
  'previous_app_secret',
  'outgoing_token',
  'callback_max_skew',
  'robot_code',
  'chatbot_corp_id',
  'session_webhook_hosts',
  'timeout',
  'connect_timeout',
];

function variable(name) {
  try {
    return get(name);
  } catch (error) {
    // A store that cannot be reached must not look like a robot without a secret: whatever else it is ends the request.
    if ((error.payload ?? error).tag === 'undefined') return '';
    throw error;
  }
}

function* environmentOfVariables() {
  for (const name of COMMON) yield [name.toUpperCase(), variable(name)];
  for (const listed of variable('dingtalk_bindings').split(',')) {
    const binding = listed.trim().replaceAll('-', '_');
    if (binding === '') continue;
    for (const property of PROPERTIES) {
      yield [`DINGTALK_${binding}__${property}`.toUpperCase(), variable(`dingtalk_${binding}_${property}`)];
    }
  }
}

export const environment = {
  getEnvironment: () => [...environmentOfVariables()].filter(([, value]) => value !== ''),
  getArguments: () => [],
  initialCwd: () => undefined,
};
