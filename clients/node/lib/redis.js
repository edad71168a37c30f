import {isIP} from 'node:net'
import {Command, Redis} from 'ioredis'
import {fromCell, fromPairs, fromServer} from './decision.js'
import {HeadgateError, textOf} from './errors.js'

// What errors of the door begin with.
const codes = {
  ERR: 'invalid_request',
  Cell: 'invalid_request',
  NOTFOUND: 'not_found',
  CONFLICT: 'conflict',
  NOAUTH: 'unauthorized',
  WRONGPASS: 'unauthorized',
  NOPERM: 'forbidden',
  UNAVAILABLE: 'unavailable',
  OVERLOADED: 'overloaded',
  CLOSED: 'closed',
  INTERNAL: 'internal'
}

/** What an error of ioredis means, of the server at an address such as 127.0.0.1:6380. */
function toError(err, at) {
  if (err.message.startsWith('Unknown RESP type 72 "H"')) { // of HTTP/1.1
    return new HeadgateError('invalid_request', `an HTTP server answers at ${at}: write url: http://${at} if it is Headgate's HTTP door, or the port of its Redis door, which is 6380 unless --resp says otherwise`, err)
  }
  if (err.name !== 'ReplyError') return new HeadgateError('disconnected', `the connection to the server failed: ${textOf(err)}`, err)
  if (err.message.startsWith('ERR unknown command')) {
    return new HeadgateError('invalid_request', `a Redis server answers at ${at}, and Headgate's own server is needed, not a Redis: start headgate serve and write the address of its Redis door, such as redis://127.0.0.1:6380`, err)
  }
  const space = err.message.indexOf(' ')
  const code = codes[err.message.slice(0, space)]
  return code ? new HeadgateError(code, err.message.slice(space + 1), err) : new HeadgateError('internal', err.message, err)
}

const asText = {replyEncoding: 'utf8'}

// The longest time between two tries to connect, in milliseconds: to another machine, and to
// this one, where a server that is back is to be found before calls are given up.
const maxBackoff = 1000
const maxBackoffHere = 100

// How many silent connections are kept whose answers may bring tickets, and how long, in
// milliseconds.
const maxRetired = 4
const lateFor = 30_000

const here = /^(?:localhost|127\.\d+\.\d+\.\d+|::1)$/

const ours = {
  protocol: 2, // whose replies are shorter to read
  lazyConnect: true,
  enableReadyCheck: false,
  enableOfflineQueue: false, // we have our own, with an end to waiting
  enableAutoPipelining: false, // likewise
  autoResendUnfulfilledCommands: false, // a call that was sent may have been charged
  maxRetriesPerRequest: 0,
  disableClientInfo: true,
  keyPrefix: '',
  commandTimeout: undefined,
  stringNumbers: false,
  monitor: false,
  disconnectTimeout: 100 // in milliseconds; a process that ends waits for it
}

const backoff = (most) => (times) => Math.min(25 * 2 ** Math.min(times - 1, 10), most) * (0.75 + Math.random() / 4)

/** What ioredis is told to reach the door at url. */
function address(url) {
  if (url.protocol === 'unix:') return {path: decodeURIComponent(url.pathname)}
  const host = url.hostname.replace(/^\[|\]$/g, '')
  return {
    host,
    port: Number(url.port || 6380),
    username: url.username ? decodeURIComponent(url.username) : undefined,
    password: url.password ? decodeURIComponent(url.password) : undefined,
    // The name of a server is not sent where it is an address (RFC 6066).
    tls: url.protocol === 'rediss:' ? {servername: isIP(host) ? '' : host} : undefined
  }
}

/**
 * What ioredis is told. An instance is not used itself: its settings may send a call twice,
 * or never end it.
 */
export function settings({url, token, tls, redis}) {
  if (redis?.isCluster) throw new TypeError('redis: a Cluster: Headgate is one server; give a Redis, or a url')
  const where = url ? address(url) : {port: 6380}
  if (tls) where.tls = {...where.tls, ...tls}
  const theirs = typeof redis?.duplicate === 'function' ? redis.options : redis
  const auth = token === undefined ? {} : {username: undefined, password: token}
  const all = {...where, ...theirs, ...ours, ...auth}
  return {...all, retryStrategy: backoff(all.path || here.test(all.host ?? '127.0.0.1') ? maxBackoffHere : maxBackoff)}
}

/** Takes the place of the socket while commands are put together. */
class OneWrite {
  text = ''

  write(command) {
    this.text += command
  }
}

/**
 * The Redis door, by ioredis: what is asked in one turn of the event loop goes out in one
 * write. Of a call it reads `kind` and `query`; it ends it by `answered` or `failed`.
 */
export class RedisDoor {
  #settings
  #owner
  #redis
  #retired = new Set() // connections that have been replaced, and may still answer
  #unsent = new Set()
  #scheduled = false
  #life = 0 // of the connection
  #unanswered = 0
  #holding = 0 // of these, those whose answers may bring tickets
  #lastError = null
  #wasReady = false // in this life
  #closed = false

  /**
   * @param {object} options of Headgate
   * @param {{reachable(): void, trouble(err: Error): void}} owner
   */
  constructor(options, owner) {
    this.#settings = settings(options)
    this.#owner = owner
    this.#open()
  }

  #open() {
    const redis = new Redis(this.#settings)
    this.#redis = redis
    redis.on('ready', () => {
      this.#lastError = null
      this.#wasReady = true
      this.#owner.reachable()
      this.#flush()
    })
    redis.on('error', (err) => {
      if (redis !== this.#redis) return
      this.#lastError = err
      this.#owner.trouble(this.#meaning(err))
      if (this.#isTurnedAway) this.#turnAway()
    })
    redis.on('close', () => {
      if (redis !== this.#redis) return
      this.#begin()
      // What waits for a connection fails with the attempt to make one, and need not be late.
      if (!this.#wasReady && this.#lastError) this.#turnAway()
      this.#wasReady = false
    })
  }

  #begin() {
    this.#life++
    this.#unanswered = this.#holding = 0
  }

  /** How many calls take up memory: those to be sent, and those without answer, late or not. */
  get load() {
    return this.#unsent.size + this.#unanswered
  }

  get connected() {
    return this.#redis.status === 'ready'
  }

  get lastError() {
    return this.#lastError
  }

  // The server is there and does not let us in: that is no failure to be passed over.
  get #isTurnedAway() {
    return this.#lastError?.name === 'ReplyError'
  }

  #turnAway() {
    const calls = [...this.#unsent]
    this.#unsent.clear()
    for (const call of calls) call.failed(this.#meaning(this.#lastError))
  }

  #meaning(err) {
    const {path, host = '127.0.0.1', port} = this.#redis.options
    return toError(err, path ?? `${isIP(host) === 6 ? `[${host}]` : host}:${port}`)
  }

  /** Says why this door cannot do what is asked; undefined if it can. */
  refuses(query) {
    if (query.maxWait > 0) return 'maxWait: waiting in line holds up all calls of a connection; ask over HTTP (url: http://...)'
    return undefined
  }

  send(call) {
    if (this.#isTurnedAway) return call.failed(this.#meaning(this.#lastError))
    this.#unsent.add(call)
    if (this.#scheduled) return
    this.#scheduled = true
    if (this.#redis.status === 'wait') this.#redis.connect().catch(() => {}) // told by 'error'
    // Where others wait for answers, those that are read in this turn go along.
    if (this.#unanswered > 0) setImmediate(this.#flush)
    else process.nextTick(this.#flush)
  }

  /** Nobody waits for this call any more. */
  drop(call) {
    this.#unsent.delete(call)
  }

  /** The caller does not want it any more. */
  cancel(call) {
    this.drop(call)
  }

  #flush = () => {
    this.#scheduled = false
    // One that is being closed takes nothing any more: what is asked now waits for the next.
    if (this.#unsent.size === 0 || this.#redis.status !== 'ready' || !this.#redis.stream.writable) return
    const batch = new OneWrite()
    for (const call of this.#unsent) this.#write(call, this.#life, batch)
    this.#unsent.clear()
    if (batch.text) this.#redis.stream.write(batch.text)
  }

  #write(call, life, batch) {
    this.#unanswered++
    if (call.mayHold) this.#holding++
    const [name, args] = command(call)
    const sent = new Command(name, args, asText)
    sent.promise.then(
      (reply) => {
        this.#count(call, life)
        let answer
        try {
          answer = decode(call, reply)
        } catch (err) {
          return call.failed(new HeadgateError('internal', 'this is no answer of Headgate: is the url right?', err))
        }
        call.answered(answer)
      },
      (err) => {
        this.#count(call, life)
        call.failed(this.#meaning(err))
      }
    )
    this.#redis.sendCommand(sent, batch)
  }

  // One is answered.
  #count(call, life) {
    if (life !== this.#life) return
    this.#unanswered--
    if (call.mayHold) this.#holding--
  }

  /** Ends a connection that has been silent, and makes another one. */
  restart() {
    if (this.#redis.status !== 'ready') return
    if (this.#holding > 0 && this.#retired.size < maxRetired) this.#retire()
    else this.#redis.disconnect(true)
  }

  // The server may only have been slow: its answers bring tickets that nobody else knows.
  #retire() {
    const old = this.#redis
    const timer = setTimeout(() => old.disconnect(), lateFor).unref()
    this.#retired.add(old)
    old.options.retryStrategy = undefined
    old.once('end', () => {
      clearTimeout(timer)
      this.#retired.delete(old)
    })
    this.#begin()
    this.#wasReady = false
    this.#open()
    this.#redis.connect().catch(() => {}) // told by 'error'
  }

  close() {
    if (this.#closed) return
    this.#closed = true
    this.#redis.disconnect()
    for (const old of this.#retired) old.disconnect()
  }
}

// The name of a command and its arguments.
function command({kind, query}) {
  switch (kind) {
    case 'throttle': {
      const {key, burst, count, period, cost} = query
      // Milliseconds only where they are needed: the reply is six times as long.
      if (Number.isInteger(period)) return ['CL.THROTTLE', [key, String(burst - 1), String(count), String(period), String(cost)]]
      return ['HG.THROTTLE', [key, String(burst), String(count), String(Math.round(period * 1000)), String(cost)]]
    }
    case 'ping':
      return ['PING', []]
    case 'reset':
      return ['HG.RESET', [query.application, query.subject, ...query.limits.flatMap((id) => ['LIMIT', id])]]
    case 'settle':
    case 'renew':
    case 'release':
      return [`HG.${kind.toUpperCase()}`, costs([query.ticket], query)]
    default:
      return [`HG.${kind.toUpperCase()}`, request(query)]
  }
}

function costs(args, q) {
  if (q.ttl !== undefined) args.push('TTL', String(q.ttl))
  if (q.cost !== undefined) args.push('COST', String(q.cost))
  for (const unit in q.units) args.push('COSTS', unit, String(q.units[unit]))
  return args
}

function request(q) {
  // Nobody waits in line here: those behind would wait too.
  const args = costs([q.application, q.operation, q.subject, 'WAIT', '0'], q)
  if (q.plan) args.push('PLAN', q.plan)
  if (q.id) args.push('ID', q.id)
  if (q.ip) args.push('IP', q.ip)
  if (q.method) args.push('METHOD', q.method)
  if (q.path) args.push('PATH', q.path)
  if (q.host) args.push('HOST', q.host)
  if (q.fields) args.push('FIELDS')
  for (const name in q.attributes) args.push('ATTR', name, q.attributes[name])
  for (const name in q.headers) {
    const value = q.headers[name]
    if (Array.isArray(value)) for (const line of value) args.push('HEADER', name, line)
    else args.push('HEADER', name, value)
  }
  return args
}

function decode({kind, query}, reply) {
  if (kind === 'ping') return undefined
  if (kind === 'throttle' && Number.isInteger(query.period)) return fromCell(reply)
  const o = fromPairs(reply)
  o.limits = o.limits.map(fromPairs)
  if (kind === 'reset') return {application: o.application, subject: o.subject, limits: o.limits.map((l) => l.id)}
  o.costs = fromPairs(o.costs)
  if (o.candidate) {
    o.candidate = fromPairs(o.candidate)
    o.candidate = {allowed: o.candidate.allowed === 1, reason: o.candidate.reason}
  }
  return fromServer(o)
}
