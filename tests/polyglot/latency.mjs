// Prints how many microseconds a call of `run` of a component takes, once it has what it asks for at hand.

import { argv } from 'node:process';
import { pathToFileURL } from 'node:url';

const CALLS = 1000;
const ROUNDS = 9;

const { run } = await import(pathToFileURL(argv[2]));

function perCall() {
  const start = performance.now();
  // It throws when there is no token.
  for (let call = 0; call < CALLS; call++) run();
  return (performance.now() - start) / CALLS;
}

perCall();
const rounds = Array.from({ length: ROUNDS }, perCall).sort((a, b) => a - b);
console.log(rounds[(ROUNDS - 1) / 2] * 1e3);
