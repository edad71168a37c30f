// Package pgopen opens PostgreSQL databases in which tables of ours stand: it reads
// URLs, checks the server and migrates the tables, and puts what goes wrong into one
// sentence for whoever typed the URL.
package pgopen
