/**
 * Stops asking a server that does not answer. After `failures` in a row it is open: calls
 * are not made, but one each `cooldown` milliseconds to see whether the server is back.
 */
export class Breaker {
  #failures
  #cooldown
  #inARow = 0
  #nextProbe = 0
  #probing = false
  #open = false

  constructor({failures, cooldown}) {
    this.#failures = failures
    this.#cooldown = cooldown
  }

  get state() {
    if (!this.#open) return 'closed'
    return this.#probing ? 'half_open' : 'open'
  }

  get isOpen() {
    return this.#open
  }

  /** Whether a call may be made while the breaker is open. Who is told so must report. */
  probe(now) {
    if (this.#probing || now < this.#nextProbe) return false
    this.#probing = true
    return true
  }

  /** A call was answered. */
  succeeded() {
    this.#inARow = 0
    this.#open = this.#probing = false
  }

  /** A call was not answered. Calls that were made before it opened do not delay probes. */
  failed(now, wasProbe) {
    this.#inARow++
    if (wasProbe || (!this.#open && this.#inARow >= this.#failures)) {
      this.#open = true
      this.#probing = false
      this.#nextProbe = now + this.#cooldown
    }
  }

  /** The server can be reached again: the next call is a probe. */
  reachable() {
    this.#nextProbe = 0
  }
}
