// Package cron enqueues tasks by schedules: at each tick of a schedule one task,
// whatever number of replicas there are and whichever of them die.
//
// There is no leader. A schedule is a row with the time of its next tick, and
// every replica that finds a tick due tries to move the row on to the following
// one, provided that it is still where the replica has read it and that its time
// has come by the clock of Postgres. The statement that does so also inserts the
// task; so a tick has fired if, and only if, its task is there. Clocks of replicas
// don't matter: they only decide when a replica looks.
//
// Ticks that nobody fired in time, since no replica or no Postgres was there, are
// skipped, or made up for by one task or by all of theirs: see [wire.CronMissed].
package cron
