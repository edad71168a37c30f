import {Headgate} from './index.js'
import {Bucket} from './pm2-bucket.js'
import {readShared, readTime, refuseUnknown} from './pm2-options.js'
import {Place} from './pm2-place.js'
import {Tally} from './pm2-tally.js'

const options = 'name, timeout, failOpen, url, capacity, refillRate, refillInterval, logger'

// How often a client looks at what the manager wrote, in milliseconds.
const lookEvery = 100

// What the TokenClient logs says why, so its connection need not.
const silent = {warn() {}}

function shown(value) {
  if (typeof value === 'number') return value
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 32)) : typeof value
}

/** Takes tokens of the bucket that a TokenManager keeps. Described in pm2.d.ts. */
export class TokenClient {
  #name
  #place
  #url
  #timeout
  #failOpen
  #log
  #lookedAt = -Infinity // Infinity: there is nothing to look for
  #note = null // the text that was read last
  #bucket = null
  #headgate = null
  #server = null // the URL of headgate
  #closed = false
  #counts = {allowed: 0, refused: 0, failedOpen: 0, failedClosed: 0, invalid: 0}

  constructor({name, url, logger, timeout = 500, failOpen = true, capacity, refillRate, refillInterval, ...more} = {}) {
    refuseUnknown(more, options)
    const shared = readShared({name, url, logger})
    if (typeof failOpen !== 'boolean') throw new TypeError(`failOpen: ${String(failOpen)}: must be true or false`)
    this.#name = shared.name
    this.#place = new Place(shared.name)
    this.#url = shared.url
    this.#timeout = readTime('timeout', timeout)
    this.#failOpen = failOpen
    this.#log = new Tally(`headgate: bucket ${JSON.stringify(shared.name)}`, shared.logger)
    if (capacity !== undefined || refillRate !== undefined || refillInterval !== undefined) {
      this.#bucket = new Bucket(shared.name, {capacity, refillRate, refillInterval})
      if (this.#url === undefined) throw new TypeError('url: must be said, or HEADGATE_URL, where the numbers of the bucket are said: both are those of the manager otherwise')
      this.#connect(this.#url)
      this.#lookedAt = Infinity
    }
  }

  async consume(n = 1) {
    if (n === 0) return true
    if (!Number.isSafeInteger(n) || n < 0) return this.#invalid(`consume(${shown(n)}): must be a whole number from 0`)
    let decision
    let lost = null
    try {
      if (this.#closed) throw new Error('the client is closed')
      this.#look()
    } catch (err) {
      lost = err
    }
    const capacity = this.#bucket?.numbers.capacity
    if (n > capacity) return this.#invalid(`consume(${n}): the bucket never holds more than ${capacity}`)
    if (lost) return this.#undecided(lost)
    try {
      decision = await this.#headgate.throttle(this.#bucket.key, {...this.#bucket.limit, cost: n})
    } catch (err) {
      return this.#undecided(err)
    }
    this.#counts[decision.allowed ? 'allowed' : 'refused']++
    return decision.allowed
  }

  stats() {
    return {...this.#counts}
  }

  async close() {
    if (this.#closed) return
    this.#closed = true
    await this.#headgate?.close()
    this.#log.close()
  }

  // Not an error that is thrown: what catches it to let requests pass while there is no
  // server, as is usual, would let pass this one too.
  #invalid(why) {
    this.#counts.invalid++
    this.#log.add(`refused: ${why}`)
    return false
  }

  #undecided(err) {
    this.#counts[this.#failOpen ? 'failedOpen' : 'failedClosed']++
    this.#log.add(`${this.#failOpen ? 'allowed without a limit' : 'refused without asking'}: ${err.message}`)
    return this.#failOpen
  }

  /** Finds the server and the bucket, or throws. */
  #look() {
    const now = performance.now()
    if (now - this.#lookedAt < lookEvery) return
    const note = this.#place.read()
    if (note === null) throw new Error(`no TokenManager with this name has run in this PM2 (${this.#place.note})`)
    if (note !== this.#note) {
      const {url, ...numbers} = JSON.parse(note)
      this.#bucket = new Bucket(this.#name, numbers)
      this.#connect(this.#url ?? url)
      this.#note = note
    }
    this.#lookedAt = now
  }

  #connect(url) {
    if (url === this.#server) return
    this.#headgate?.close()
    this.#headgate = new Headgate({url, timeout: this.#timeout, onError: 'throw', logger: silent})
    this.#server = url
  }
}
