// componentize-js has no command of its own that runs on Node 20: its function, with what a handler needs.
//
//     node componentize.mjs SOURCE WIT OUTPUT

import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [sourcePath, witPath, output] = process.argv.slice(2);
// Without these, the component would import clocks, random numbers, standard streams and HTTP.
const disableFeatures = ['clocks', 'random', 'stdio', 'http', 'fetch-event'];
const { component } = await componentize({ sourcePath, witPath, worldName: 'handler-app', disableFeatures });
await writeFile(output, component);
