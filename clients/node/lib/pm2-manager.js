import {Headgate} from './index.js'
import {Bucket} from './pm2-bucket.js'
import {readShared, readTime, refuseUnknown} from './pm2-options.js'
import {Place} from './pm2-place.js'
import {findBinary, Server} from './pm2-server.js'

const options = 'capacity, refillRate, refillInterval, name, binary, url, startTimeout, logger'

// How often the manager looks at the bucket for getStatus, in milliseconds.
const lookEvery = 250

/** Keeps the bucket that the clients of this PM2 share. Described in pm2.d.ts. */
export class TokenManager {
  #bucket
  #place
  #url
  #binary
  #startTimeout
  #logger
  #server = null
  #client = null
  #looking = null
  #tokens
  #lookedAt = performance.now()
  #started = false
  #stopped = null

  constructor({capacity = 100, refillRate = 10, refillInterval = 1000, name, url, logger, binary, startTimeout = 10_000, ...more} = {}) {
    refuseUnknown(more, options)
    const shared = readShared({name, url, logger})
    this.#bucket = new Bucket(shared.name, {capacity, refillRate, refillInterval})
    this.#place = new Place(shared.name)
    this.#url = shared.url
    this.#logger = shared.logger
    this.#binary = binary
    this.#startTimeout = readTime('startTimeout', startTimeout)
    this.#tokens = capacity
  }

  start(callback) {
    // Not within the promise: what a callback throws, or an error without one, is not lost.
    const done = (err) => {
      if (callback) callback(err)
      else if (err) throw err
    }
    this.#start().then(
      () => process.nextTick(done, null),
      (err) => process.nextTick(done, err)
    )
  }

  getStatus() {
    return {tokens: this.#bucket.refilled(this.#tokens, performance.now() - this.#lookedAt), ...this.#bucket.numbers}
  }

  stop() {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  async #start() {
    if (this.#started || this.#stopped) throw new Error('headgate: a TokenManager is started once')
    this.#started = true
    try {
      this.#place.prepare()
      this.#followOwner()
      if (this.#url === undefined) await this.#serve()
      this.#refuseStopped()
      const url = this.#url ?? this.#place.url
      this.#client = new Headgate({url, timeout: 500, onError: 'throw', logger: this.#logger})
      await this.#look()
      this.#refuseStopped()
      this.#place.write(JSON.stringify({url, ...this.#bucket.numbers}))
      // A look that fails changes nothing; the client has logged why it could not ask.
      this.#looking = setInterval(() => this.#look().catch(() => {}), lookEvery)
    } catch (err) {
      await this.stop()
      throw new Error(`headgate: the TokenManager was not started: ${err.message}`, {cause: err})
    }
  }

  #refuseStopped() {
    if (this.#stopped) throw new Error('it was stopped meanwhile')
  }

  #serve() {
    this.#server = new Server(findBinary(this.#binary), this.#place, this.#logger)
    return this.#server.start(this.#startTimeout)
  }

  async #look() {
    const {remaining} = await this.#client.throttle(this.#bucket.key, {...this.#bucket.limit, cost: 0})
    if (remaining === null) throw new Error('the server does not know, as its store is away')
    this.#tokens = remaining
    this.#lookedAt = performance.now()
  }

  async #stop() {
    clearInterval(this.#looking)
    await this.#client?.close()
    await this.#server?.stop()
    this.#leaveOwner()
  }

  // PM2 ends its applications by SIGINT, or by a message if it is told so. When PM2 itself
  // is gone, the channel to it closes.
  #followOwner() {
    process.on('SIGINT', this.#signalled).on('SIGTERM', this.#signalled)
    process.on('message', this.#told).on('disconnect', this.#abandoned)
  }

  #leaveOwner() {
    process.off('SIGINT', this.#signalled).off('SIGTERM', this.#signalled)
    process.off('message', this.#told).off('disconnect', this.#abandoned)
  }

  #signalled = async (signal) => {
    await this.stop()
    // Others who listen end the process themselves.
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal)
  }

  #told = async (message) => {
    if (message !== 'shutdown') return
    await this.stop()
    process.channel?.unref() // the process ends, unless it has more to do
  }

  #abandoned = () => this.stop()
}
