# A worker that does the tasks images.resize: it says that it is alive and how
# far it is, and stops when the attempt is not its own any more.
import asyncio
import json
import os
import time

import nats

NAME, SLOTS, LEASE = "images.resize", 4, 10  # seconds within which it is heard again, or lost


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)

    async def say(msg, body, headers):
        """Says something of an attempt to whoever supervises it, and returns the code of what it is told."""
        try:
            answer = await nc.request(msg.reply, body, timeout=2, headers=headers)
        except nats.errors.Error:
            return "UNAVAILABLE"  # nobody heard it, as far as is known
        return (answer.headers or {}).get("Nats-Service-Error-Code")

    async def end(msg, body, headers=None):
        """Ends an attempt: says so until the service has it, or somebody else has the task."""
        for _ in range(60):
            if await say(msg, body, headers) not in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
                return
            await asyncio.sleep(1)

    async def fail(msg, code, text):
        await end(msg, b"", {"Nats-Service-Error-Code": code, "Nats-Service-Error": text})

    async def work(msg, until):
        try:
            data = json.loads(msg.data)
        except ValueError:
            data = None
        sizes = data.get("sizes") if isinstance(data, dict) else None
        if not isinstance(sizes, list):
            await fail(msg, "INVALID_ARGUMENT", "sizes: must be a list")  # no other attempt mends it
            return
        progress = {"done": 0, "total": len(sizes)}
        stop = []  # why

        async def beat():
            headers = {"Fl-Task-Progress": "1", "Fl-Task-Lease-Ms": str(LEASE * 1000)}
            if await say(msg, json.dumps(progress).encode(), headers) == "FAILED_PRECONDITION":
                stop.append("given up")

        async def beats():
            while True:
                await asyncio.sleep(LEASE / 3)
                await beat()

        async def cancelled(_):
            stop.append("cancelled")

        cancel = await nc.subscribe(msg.headers["Fl-Task-Cancel"], cb=cancelled)
        alive = asyncio.create_task(beats())
        try:
            for size in sizes:
                await beat()
                # Whoever stores what comes of it is told the same key by every attempt: it stores it once.
                await resize(data.get("image"), size, f"{msg.headers['Fl-Idempotency-Key']}/{size}")
                if time.monotonic() > until:
                    stop.append("out of time")
                if stop:
                    print(msg.headers["Fl-Task-Id"], stop[0], flush=True)
                    await fail(msg, "CANCELLED", stop[0])  # where it was given up this is refused
                    return
                progress["done"] += 1
        except OSError as error:
            await fail(msg, "UNAVAILABLE", str(error))  # the policy of the name says whether another attempt follows
            return
        finally:
            alive.cancel()
            await cancel.unsubscribe()
        await end(msg, json.dumps({"image": data.get("image"), "sizes": len(sizes)}).encode())

    async def resize(image, size, key):
        await asyncio.sleep(0.1)  # the work; in a thread where it takes the processor, or no beat is sent

    slots = asyncio.Semaphore(SLOTS)
    tasks = set()

    async def attempt(msg, until):
        async with slots:
            # One that waited here until its time was over is somebody else's by now.
            if time.monotonic() < until:
                await work(msg, until)

    async def received(msg):  # nats-py waits for it before the next message
        until = time.monotonic() + int(msg.headers["Fl-Task-Timeout-Ms"]) / 1000
        task = asyncio.create_task(attempt(msg, until))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await nc.subscribe(f"fl.task.{NAME}", queue="workers", cb=received)  # each attempt reaches one of them
    await nc.flush()
    print("ready", flush=True)
    # What waits for a worker goes out at once, and no more than this one takes.
    hello = json.dumps({"names": [NAME], "worker": f"resizer-{os.getpid()}", "slots": SLOTS}).encode()
    while True:
        await nc.publish("fl.svc.tasks.hello", hello)
        await asyncio.sleep(10)


asyncio.run(main())
