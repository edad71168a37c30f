function wrong(option, value, want) {
  return new TypeError(`${option}: ${typeof value === 'string' ? JSON.stringify(value) : String(value)}: must be ${want}`)
}

/** A bucket in the words of the server. Its numbers are checked. */
export class Bucket {
  /**
   * @param {string} name
   * @param {{capacity: number, refillRate: number, refillInterval: number}} numbers
   */
  constructor(name, {capacity, refillRate, refillInterval}) {
    if (!Number.isSafeInteger(capacity) || capacity < 1) throw wrong('capacity', capacity, 'a whole number from 1')
    if (!Number.isSafeInteger(refillInterval) || refillInterval < 1) throw wrong('refillInterval', refillInterval, 'a whole number of milliseconds from 1')
    // The server counts whole tokens: 0.25 a second is 1 in 4 seconds.
    const scale = [1, 10, 100, 1000].find((n) => Number.isSafeInteger(refillRate * n))
    if (scale === undefined || refillRate <= 0) throw wrong('refillRate', refillRate, 'a number above 0 with at most three decimals')
    this.key = `pm2:${name}`
    this.numbers = {capacity, refillRate, refillInterval}
    this.limit = {burst: capacity, count: refillRate * scale, period: (refillInterval * scale) / 1000}
  }

  /** How many of `tokens` there are `elapsed` milliseconds later, if none is taken. */
  refilled(tokens, elapsed) {
    const {capacity, refillRate, refillInterval} = this.numbers
    return Math.min(capacity, tokens + Math.floor((elapsed * refillRate) / refillInterval))
  }
}
