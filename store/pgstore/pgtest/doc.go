// Package pgtest starts real PostgreSQL servers for tests, of the newest version
// under /usr/lib/postgresql; the variable PGTEST_BIN names another directory of
// programs. A process of root starts them as the user postgres.
//
// Servers listen on the loopback address, on free ports below those that the
// system gives to outgoing connections, and keep their files in a directory of
// their own. A function that starts servers returns when they answer, and stops
// them at the end of the test. [Shared] starts its server once per process: whoever
// uses it keeps to schemas of its own, by [Server.Schema].
//
// However the process ends, its servers end and their files go: a shell that
// reads from a pipe of the process sees to that.
package pgtest
