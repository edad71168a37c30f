import {isIP} from 'node:net'
import {Command, Redis} from 'ioredis'
import {fromCell, fromPairs, fromServer} from './decision.js'
import {HeadgateError} from './errors.js'

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

function toError(err) {
  if (err.name !== 'ReplyError') return new HeadgateError('disconnected', `the connection to the server was lost: ${err.message}`, err)
  const space = err.message.indexOf(' ')
  const code = codes[err.message.slice(0, space)]
  return code ? new HeadgateError(code, err.message.slice(space + 1), err) : new HeadgateError('internal', err.message, err)
}

const asText = {replyEncoding: 'utf8'}

// The longest time between two tries to connect, in milliseconds.
const maxBackoff = 1000

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
  retryStrategy: (times) => Math.min(25 * 2 ** Math.min(times - 1, 10), maxBackoff) * (0.75 + Math.random() / 4)
}

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

// An instance is not used itself: its settings may send a call twice, or never end it.
function connection({url, token, tls, redis}) {
  if (redis?.isCluster) throw new TypeError('redis: a Cluster: Headgate is one server; give a Redis, or a url')
  const where = url ? address(url) : {port: 6380}
  if (tls) where.tls = {...where.tls, ...tls}
  const theirs = typeof redis?.duplicate === 'function' ? redis.options : redis
  const auth = token === undefined ? {} : {username: undefined, password: token}
  return new Redis({...where, ...theirs, ...ours, ...auth})
}

/**
 * The Redis door, by ioredis: what is asked in one turn of the event loop goes out in one
 * write. Of a call it reads `kind` and `query`; it ends it by `answered` or `failed`.
 */
export class RedisDoor {
  #redis
  #unsent = new Set()
  #scheduled = false
  #life = 0 // of the connection
  #unanswered = 0
  #lastError = null
  #closed = false

  /**
   * @param {object} options of Headgate
   * @param {{reachable(): void, trouble(err: Error): void}} owner
   */
  constructor(options, owner) {
    this.#redis = connection(options)
    this.#redis.on('ready', () => {
      this.#lastError = null
      owner.reachable()
      this.#flush()
    })
    this.#redis.on('error', (err) => {
      this.#lastError = err
      owner.trouble(err)
      if (this.#isTurnedAway) this.#turnAway()
    })
    this.#redis.on('close', () => {
      this.#life++
      this.#unanswered = 0
    })
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
    for (const call of calls) call.failed(toError(this.#lastError))
  }

  /** Says why this door cannot do what is asked; undefined if it can. */
  refuses(query) {
    if (query.maxWait > 0) return 'maxWait: waiting in line holds up all calls of a connection; ask over HTTP (url: http://...)'
    return undefined
  }

  send(call) {
    if (this.#isTurnedAway) return call.failed(toError(this.#lastError))
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

  #flush = () => {
    this.#scheduled = false
    if (this.#unsent.size === 0 || this.#redis.status !== 'ready') return
    const life = this.#life
    const {stream} = this.#redis
    stream.cork() // all of them are one write
    for (const call of this.#unsent) this.#write(call, life)
    stream.uncork()
    this.#unsent.clear()
  }

  #write(call, life) {
    this.#unanswered++
    const [name, args] = command(call)
    const sent = new Command(name, args, asText)
    sent.promise.then(
      (reply) => {
        if (life === this.#life) this.#unanswered--
        let answer
        try {
          answer = decode(call, reply)
        } catch (err) {
          return call.failed(new HeadgateError('internal', 'this is no answer of Headgate: is the url right?', err))
        }
        call.answered(answer)
      },
      (err) => {
        if (life === this.#life) this.#unanswered--
        call.failed(toError(err))
      }
    )
    this.#redis.sendCommand(sent)
  }

  /** Ends a connection that has been silent, and makes another one. */
  restart() {
    if (this.#redis.status === 'ready') this.#redis.disconnect(true)
  }

  close() {
    if (this.#closed) return
    this.#closed = true
    this.#redis.disconnect()
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
