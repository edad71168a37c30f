// A Headgate server for tests, on free ports of this machine.
import {execFileSync, spawn} from 'node:child_process'
import {once} from 'node:events'
import {mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'

let built

/** The binary: that of HEADGATE_BIN, or one that is built now and removed at exit. */
export function binary() {
  if (process.env.HEADGATE_BIN) return process.env.HEADGATE_BIN
  if (built === undefined) {
    const dir = mkdtempSync(join(tmpdir(), 'headgate-bin-'))
    process.on('exit', () => rmSync(dir, {recursive: true}))
    built = join(dir, 'headgate')
    execFileSync('go', ['build', '-o', built, './cmd/headgate'], {cwd: fileURLToPath(new URL('../../../server', import.meta.url)), stdio: 'inherit'})
  }
  return built
}

export const policy = `
version: 1
plans:
  free: {limits: []}
  paid: {limits: []}
applications:
  default:
    default_plan: free
    deny: [203.0.113.0/24]
    identity: [ip]
    rules:
      - {name: send, match: {operation: send}, limits: [{name: burst, rate: 5/h, burst: 5, plans: {paid: {rate: 50/h, burst: 50}}}]}
      - {name: org, match: {operation: org}, limits: [{name: all, per: {expr: attributes.org}, rate: 2/h}, {name: own, rate: 9/h}]}
      - {name: slots, match: {operation: slots}, limits: [{name: slots, algorithm: concurrency, max: 1, ttl: 1h}]}
      - {name: brief, match: {operation: brief}, limits: [{name: slots, algorithm: concurrency, max: 1, ttl: 1s}]}
      - {name: line, match: {operation: line}, max_wait: 10s, limits: [{name: rate, rate: 5/s, burst: 1}]}
      - {name: shape, match: {operation: shape}, limits: [{name: shape, algorithm: leaky_bucket, rate: 4/s, burst: 9}]}
      - {name: polite, match: {operation: polite}, limits: [{name: one, rate: 1/h}], message: "Slow \\"down\\""}
      - {name: tokens, match: {operation: tokens}, limits: [{name: tokens, unit: tokens, rate: 100/h}]}
      - {name: path, match: {path: "/v1/{rest...}", methods: [POST]}, limits: [{name: w, rate: 3/h}, {name: d, rate: 50/day}]}
`

class Server {
  #args
  #env
  #child

  constructor(scratch, args, env) {
    this.scratch = scratch
    this.#args = args
    this.#env = env
  }

  /** Starts it; doors whose port is 0 get one, and keep it over further starts. */
  async start() {
    const doors = [...Object.entries(this.addresses ?? this.#args)].flatMap(([door, at]) => [`--${door}`, at])
    const child = spawn(binary(), ['serve', '--store', 'memory', '--data', join(this.scratch, 'data'), ...doors], {
      env: {PATH: process.env.PATH, HEADGATE_GRPC: '', HEADGATE_POLICY: join(this.scratch, 'policy.yaml'), ...this.#env},
      stdio: ['ignore', 'ignore', 'pipe']
    })
    this.#child = child
    const missing = new Set(Object.keys(this.#args))
    const found = {}
    this.log = ''
    await new Promise((resolve, reject) => {
      child.on('error', reject)
      child.once('exit', (code) => reject(new Error(`the server ended with ${code}:\n${this.log}`)))
      child.stderr.setEncoding('utf8').on('data', (text) => {
        this.log += text
        for (const [, door, at] of this.log.matchAll(/msg=listening door=(\w+) address=(\S+)\n/g)) {
          found[door] = at
          missing.delete(door)
        }
        if (missing.size === 0) resolve()
      })
    })
    child.removeAllListeners('exit')
    this.addresses = Object.fromEntries(Object.keys(this.#args).map((door) => [door, this.#args[door].startsWith('unix:') ? this.#args[door] : found[door]]))
    return this
  }

  get redis() {
    const at = this.addresses.resp
    return at.startsWith('unix:') ? at.replace('unix:', 'unix://') : `redis://${at}`
  }

  get http() {
    const at = this.addresses.http
    return at.startsWith('unix:') ? at.replace('unix:', 'http+unix://') : `http://${at}`
  }

  /** The token that may do everything. */
  get token() {
    return readFileSync(join(this.scratch, 'data', 'admin-token'), 'utf8').trim()
  }

  /** Stops the process, so that it answers nothing, and returns when it stands still. */
  freeze() {
    this.#child.kill('SIGSTOP')
    const tasks = `/proc/${this.#child.pid}/task`
    const stopped = (task) => / T /.test(readFileSync(`${tasks}/${task}/stat`, 'utf8'))
    while (!readdirSync(tasks).every(stopped));
  }

  thaw() {
    this.#child.kill('SIGCONT')
  }

  async kill() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const ended = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await ended
  }
}

/**
 * Starts a server that ends with the test or suite.
 *
 * @param {{after(end: () => Promise<void>): void}} t
 * @param {{doors?: Record<string, string>, env?: Record<string, string>, files?: Record<string, string>}} [how]
 */
export async function startServer(t, {doors = {http: '127.0.0.1:0', resp: '127.0.0.1:0'}, env = {}, files = {}, scratch = newScratch()} = {}) {
  for (const [name, text] of Object.entries({'policy.yaml': policy, ...files})) writeFileSync(join(scratch, name), text)
  const server = new Server(scratch, doors, env)
  t.after(async () => {
    await server.kill()
    rmSync(scratch, {recursive: true})
  })
  return server.start()
}

/** As startServer, on unix sockets: while it is away nobody else can take its place, as may be with ports. */
export function startOnSockets(t) {
  const scratch = newScratch()
  return startServer(t, {scratch, doors: {http: `unix:${join(scratch, 'h.sock')}`, resp: `unix:${join(scratch, 'r.sock')}`}})
}

export const newScratch = () => mkdtempSync(join(tmpdir(), 'headgate-test-'))

/** A logger that keeps its lines. */
export function listener() {
  const lines = []
  return {lines, warn: (line) => lines.push(line)}
}

/** What hooks give startServer: `after` of node:test, called within a hook, runs at once. */
export function atEnd(after) {
  const ends = []
  after(async () => {
    for (const end of ends) await end()
  })
  return {after: (end) => ends.push(end)}
}
