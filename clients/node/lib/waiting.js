// A timer that is late by more milliseconds says that this process was held up.
const stall = 10

/**
 * The calls that wait for an answer, the oldest first. All wait equally long, so one timer
 * serves all of them: it is set for the oldest and not for each.
 */
export class Waiting {
  #patience
  #expired
  #timer = null
  #due = 0
  #hadGrace = false
  #ends = {} // before the first and behind the last

  /**
   * @param {number} patience in milliseconds
   * @param {(call: object) => void} expired is called once for each call that is out of time
   */
  constructor(patience, expired) {
    this.#patience = patience
    this.#expired = expired
    this.#ends.next = this.#ends.prev = this.#ends
    this.size = 0
  }

  add(call) {
    call.deadline = performance.now() + this.#patience
    const last = this.#ends.prev
    call.prev = last
    call.next = this.#ends
    last.next = this.#ends.prev = call
    this.size++
    if (this.#timer === null) this.#set(this.#patience)
  }

  remove(call) {
    call.prev.next = call.next
    call.next.prev = call.prev
    call.next = call.prev = null
    this.size--
  }

  /** All are out of time. */
  expire() {
    while (this.size > 0) this.#expired(this.#ends.next)
  }

  stop() {
    clearTimeout(this.#timer)
    this.#timer = null
  }

  #set(ms) {
    this.#due = performance.now() + ms
    this.#timer = setTimeout(this.#look, ms)
  }

  // Where this process was held up, the server had less time than it seems: what was asked
  // may not have been sent yet. So it gets as much again, once.
  #look = () => {
    const late = performance.now() - this.#due
    if (late > stall && !this.#hadGrace) {
      this.#hadGrace = true
      this.#set(Math.min(late, this.#patience))
      return
    }
    this.#hadGrace = false
    // Timers go before sockets: answers that are here are to be read first.
    setImmediate(this.#sweep)
  }

  #sweep = () => {
    this.#timer = null
    const now = performance.now() + 0.5 // a timer may fire a fraction of a millisecond early
    for (let call = this.#ends.next; call !== this.#ends && call.deadline <= now; call = this.#ends.next) this.#expired(call)
    if (this.size > 0 && this.#timer === null) this.#set(Math.max(1, Math.ceil(this.#ends.next.deadline - now)))
  }
}
