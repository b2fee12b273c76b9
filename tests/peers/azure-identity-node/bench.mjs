// What @azure/identity costs, measured, the same as in ../bench-rust/src/lib.rs: `once`, `hits THREADS SECONDS`,
// `herd CALLERS AUDIENCES`. Each prints one line of JSON. There is one thread; two loops share it.
import { ManagedIdentityCredential } from "@azure/identity";
import { readFileSync } from "node:fs";

const AUDIENCE = "https://vault.azure.net";
const BATCH = 100;
const credential = new ManagedIdentityCredential();
const token = async (audience) => (await credential.getToken(`${audience}/.default`)).token.length;

const measurements = {
  async once() {
    const length = await token(AUDIENCE);
    const peak = /^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "ascii"));
    return { length, kibibytes: Number(peak[1]) };
  },

  async hits(loops, seconds) {
    await token(AUDIENCE);
    const rates = Array.from({ length: loops }, async () => {
      let calls = 0;
      const start = performance.now();
      let elapsed;
      while ((elapsed = performance.now() - start) < seconds * 1000) {
        for (let call = 0; call < BATCH; call++) await token(AUDIENCE);
        calls += BATCH;
      }
      return (calls / elapsed) * 1000;
    });
    const sum = (await Promise.all(rates)).reduce((left, right) => left + right);
    return { per_second: Math.round(sum) };
  },

  async herd(callers, audiences) {
    const start = performance.now();
    await Promise.all(Array.from({ length: callers }, (_, number) => token(`https://audience-${number % audiences}.example`)));
    return { milliseconds: Math.round((performance.now() - start) * 10) / 10 };
  },
};

const [what, ...numbers] = process.argv.slice(2);
if (!Object.hasOwn(measurements, what)) {
  console.error("usage: bench.mjs once | hits LOOPS SECONDS | herd CALLERS AUDIENCES");
  process.exit(2);
}
console.log(JSON.stringify(await measurements[what](...numbers.map(Number))));
