const every = 1000 // milliseconds

/** Logs that something happened: at once, and then at most once a second with how often. */
export class Tally {
  #about
  #logger
  #timer = null
  #more = 0
  #last

  /**
   * @param {string} about begins each line
   * @param {{warn(line: string): void}} logger
   */
  constructor(about, logger) {
    this.#about = about
    this.#logger = logger
  }

  add(text) {
    if (this.#timer) {
      this.#more++
      this.#last = text
      return
    }
    this.#logger.warn(`${this.#about}: ${text}`)
    this.#timer = setTimeout(this.#flush, every)
    this.#timer.unref()
  }

  /** Logs what was not yet. */
  close() {
    clearTimeout(this.#timer)
    this.#flush()
    clearTimeout(this.#timer)
  }

  #flush = () => {
    this.#timer = null
    if (this.#more === 0) return
    const times = this.#more
    this.#more = 0
    this.add(`${times} more in the last second, such as ${this.#last}`)
  }
}
