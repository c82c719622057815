package bench

func newLoop(config loopConfig, portable bool) (loop, error) {
	if portable {
		return newNetLoop(config)
	}
	return newEpollLoop(config)
}
