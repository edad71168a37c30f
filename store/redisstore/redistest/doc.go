// Package redistest starts real Redis or Valkey servers for tests: one alone, a
// primary with replicas and sentinels, or a cluster. It needs the program
// redis-server; the variable REDISTEST_SERVER names another one to use, such as
// a valkey-server.
//
// Servers listen on the loopback address, on free ports below those that the
// system gives to outgoing connections, and keep their files in a directory of
// their own. A function that starts servers returns when they answer, and stops
// them at the end of the test. Functions whose name begins with Shared start
// theirs once per process: whoever uses them keeps to keys of its own, by
// [Prefix], or flushes all and runs alone.
//
// However the process ends, its servers end and their files go: a shell that
// reads from a pipe of the process sees to that.
package redistest
