// What a limiter adds to a request of an Express application: each contestant in a process
// of its own, asked in turns by the same load. rate-limiter-flexible stands beside us, on a
// Redis that is started for it. It prints medians, and exits 1 if a contestant did not do
// its work.
//
//   npm run bench [-- ROUNDS [REQUESTS]]
import {fork, spawn} from 'node:child_process'
import {once} from 'node:events'
import {mkdtempSync, rmSync} from 'node:fs'
import {connect} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {startOnSockets} from '../testing/server.js'

const [rounds = 7, requests = 10_000] = process.argv.slice(2).map(Number)
const keys = 1000 // clients, so many buckets
const flights = [1, 64]

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]

const ends = []
try {
  await main()
} finally {
  for (const end of ends.reverse()) await end()
}

async function main() {
  // Both are asked over unix sockets.
  const headgate = await startOnSockets({after: (end) => ends.push(end)})
  const redis = await startRedis()
  const contestants = [await contestant('bare', ''), await contestant('headgate', headgate.redis), await contestant('rate-limiter-flexible', redis)]
  for (const c of contestants) for (const inFlight of flights) await load(c, inFlight, requests) // warms up
  const results = new Map()
  for (let round = 0; round < rounds; round++) {
    for (const inFlight of flights) {
      for (const c of contestants) {
        const key = `${c.name} ${inFlight}`
        results.set(key, [...(results.get(key) ?? []), await measure(c, inFlight)])
      }
    }
  }
  console.log(`medians of ${rounds} rounds of ${requests} requests, ${keys} clients; added to bare Express in brackets, spread of rounds after it`)
  for (const inFlight of flights) {
    for (const {name} of contestants) report(name, inFlight, results.get(`${name} ${inFlight}`), results.get(`bare ${inFlight}`))
  }
}

function report(name, inFlight, own, bare) {
  const figure = (field, digits) => {
    const values = own.map((r) => r[field])
    const added = median(values) - median(bare.map((r) => r[field]))
    return `${median(values).toFixed(digits)} (${added >= 0 ? '+' : ''}${added.toFixed(digits)}; ${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)})`
  }
  console.log(`${name.padEnd(22)} ${String(inFlight).padStart(2)} in flight: ${figure('rate', 0)} requests/s, p50 ${figure('p50', 3)} ms, CPU ${figure('cpu', 1)} us/request`)
}

async function measure(c, inFlight) {
  const before = await c.ask()
  const {seconds, times} = await load(c, inFlight, requests)
  const after = await c.ask()
  for (const [what, n] of [['handled', after.requests - before.requests], ['allowed', after.allowed - before.allowed]]) {
    if (n !== requests) throw new Error(`${c.name} has ${what} ${n} of ${requests} requests`)
  }
  const micros = after.cpu.user + after.cpu.system - before.cpu.user - before.cpu.system
  return {rate: requests / seconds, p50: median(times), cpu: micros / requests}
}

/** Sends n requests over as many connections as are in flight. Every answer must be a 200. */
async function load(c, inFlight, n) {
  let sent = 0
  const times = []
  const began = performance.now()
  const run = async (socket) => {
    while (sent < n) {
      const at = performance.now()
      socket.write(`GET / HTTP/1.1\r\nHost: x\r\nX-Id: client-${sent++ % keys}\r\n\r\n`)
      const [answer] = await once(socket, 'data')
      if (!answer.startsWith('HTTP/1.1 200 ') || !answer.endsWith('\r\n\r\nhello')) throw new Error(`${c.name} answered ${answer}`)
      if (c.name !== 'bare' && !/\r\n(X-)?RateLimit/.test(answer)) throw new Error(`${c.name} does not limit: ${answer}`)
      times.push(performance.now() - at)
    }
    socket.destroy()
  }
  const sockets = Array.from({length: inFlight}, () => connect(c.port, '127.0.0.1').setEncoding('latin1').setNoDelay())
  await Promise.all(sockets.map(run))
  return {seconds: (performance.now() - began) / 1000, times}
}

async function contestant(name, store) {
  const child = fork(fileURLToPath(new URL('app.js', import.meta.url)), [name, store])
  ends.push(async () => {
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  })
  const [{port}] = await once(child, 'message')
  const ask = async () => {
    const answer = once(child, 'message')
    child.send('how much?')
    return (await answer)[0]
  }
  return {name, port, ask}
}

async function startRedis() {
  const dir = mkdtempSync(join(tmpdir(), 'headgate-bench-'))
  const path = join(dir, 'redis.sock')
  const child = spawn('redis-server', ['--port', '0', '--unixsocket', path, '--save', '', '--dir', dir], {stdio: ['ignore', 'pipe', 'inherit']})
  ends.push(async () => {
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    rmSync(dir, {recursive: true})
  })
  await once(child, 'spawn')
  for await (const text of child.stdout.setEncoding('utf8')) if (/ready to accept connections/i.test(text)) return path
  throw new Error('redis-server did not start')
}
