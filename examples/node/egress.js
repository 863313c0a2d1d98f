// The destinations: everything else is refused before a connection is made. `npm run build` puts this in the place of
// `wasi:http/outgoing-handler`.

import { outgoingHandler } from '@bytecodealliance/preview2-shim/http';

const allowed = new Set((process.env.ROBOT_EGRESS_HOSTS ?? 'oapi.dingtalk.com').split(','));

export function handle(request, options) {
  if (!allowed.has(request.authority())) throw { tag: 'HTTP-request-denied' };
  return outgoingHandler.handle(request, options);
}
