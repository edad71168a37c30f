// Package bench measures Headgate beside other rate limiters and beside floors:
// the same work with no limiter in it. Only ratios of one run count; the command
// in cmd/bench runs the contestants in turns and prints them.
//
// # Fairness
//
// Every contestant gets the same keys in the same order and the same limit: a
// burst and the time that brings one token back. Contestants with windows get a
// window of burst tokens whose length brings the same mean rate. Rivals keep
// their documented defaults, but for the number of attempts after which throttled
// gives up under contention. Limiters of a single key (x/time/rate, failsafe-go)
// stand in a map under a read-write lock, as their users keep them, and without
// one where there is one key only.
//
// The key of a call never shares its bytes with the key that a limiter keeps,
// as in a server, where it comes out of a network buffer. All calls of one
// benchmark read their keys from memory in order, so that the cost of fetching
// a key is small and the same for all.
//
// Contestants in Redis share the machine with the server, which redistest starts
// for each of them anew. 64 calls are in flight, all keys are known beforehand,
// and nothing comes back within a run. redis_rate has a connection for each call
// in flight, with which it is fastest; for three limits it is asked three times,
// and is not atomic. Before it is measured, each contestant must let exactly the
// burst of a small limit pass to 64 goroutines that ask for twice as much (with
// leases at least 98 % of it, and not one more), and after it, exactly what was
// allowed must be used at the server.
//
// The doors are asked as others reach them: servers are processes of their own, the
// daemon as it is built and started by its users, on the same processors as the load.
// At the Redis protocol that is redis-benchmark; keys come at random. Calls of gRPC
// are encoded beforehand and travel on four connections. The floors are empty servers
// that answer as Headgate did once. envoyproxy/ratelimit keeps a connection to Redis
// for each call in flight, gubernator stands alone, and both are built with what they
// require; that they are of 2023 and 2024 is because of what the module proxy has.
// After the load, what all keys have used must be what was asked for, but for
// decisions that were made without the store because Envoy does not wait for it: they
// are counted.
//
// Reverse proxies stand before one site, an nginx that answers by itself with two bytes,
// on the same processors; 64 connections stay open to the proxy, and as many as it likes
// to the site. 10,000 users ask in turn, each far below a limit of 1,000 a second. nginx has
// a worker for each processor, listens with reuseport so that all of them get connections,
// sets the fields that our proxy sets, and keeps a zone of users with a burst of 1,000 and
// nodelay; its processor time is that of all workers. No connection ends for the number of
// its requests. Our proxy is measured with limits, with a policy that has none, and without
// a gate. Before that, of 8 requests at a tight limit exactly 5 must pass, and all at a
// loose one; after it, the site must have seen what passed, each once, over connections
// that were kept. What limits cost is measured with and without them in turns.
//
// A benchmark runs each contestant in a process of its own, and fails unless
// what it allowed is what the limit says for exactly the calls that were made.
package bench
