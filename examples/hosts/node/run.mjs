// Runs a command that `jco transpile` has made into JavaScript:
//
//     node run.mjs [--env NAME]... FILE.js [ARGUMENT]...
//
// Its environment are the variables that are named.

import { resolve } from 'node:path';
import process, { argv, env } from 'node:process';
import { pathToFileURL } from 'node:url';
import { _setArgs, _setEnv } from '@bytecodealliance/preview2-shim/cli';

const args = argv.slice(2);
const environment = {};
while (args[0] === '--env') {
  const [, name] = args.splice(0, 2);
  environment[name] = env[name] ?? '';
}
_setEnv(environment);
_setArgs(args);

const { run } = await import(pathToFileURL(resolve(args[0])));
try {
  await run.run();
} catch (error) {
  // The error of the result, and `wasi:cli/run` has no more to say than that. The program has said the rest.
  if (!('payload' in error)) throw error;
  process.exitCode = 1;
}
