// Package tasks is the service for work that must finish, once, whoever dies: a
// task is a row in Postgres, its attempts go to workers over NATS, and a number
// that grows with each attempt fences off whoever had the task before.
//
// This package is what is asked for over NATS, checked, and what a replica is made
// of; each part is a package of its own: the rows are kept by store, attempts run
// by runner, and beside them are cron, jobs, idem, lock and bridge.
package tasks
