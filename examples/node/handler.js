// The application. The same file is a component of its own for `dingtalk-host serve --handler` and for `wac plug`.

import { handler } from '../bots/javascript/bot.js';

export const { handle } = handler;
