# A worker that answers calls: orders.create at once, report.build with
# progress until nobody waits.
import asyncio
import json
import os

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)

    async def fail(msg, code, text):
        headers = {"Nats-Service-Error-Code": code, "Nats-Service-Error": text}
        await nc.publish(msg.reply, b"", headers=headers)

    def read(msg):
        try:
            data = json.loads(msg.data)
        except ValueError:
            data = None
        return data if isinstance(data, dict) else {}

    async def create_order(msg):
        if not read(msg).get("item"):
            await fail(msg, "INVALID_ARGUMENT", "item: is required")
            return
        receipt = {"order": 17, "for": (msg.headers or {}).get("Fl-User")}
        await nc.publish(msg.reply, json.dumps(receipt).encode())

    async def build_report(msg):
        pages = read(msg).get("pages")
        if not isinstance(pages, int):
            await fail(msg, "INVALID_ARGUMENT", "pages: must be a number")
            return
        cancelled = asyncio.Event()

        async def cancel(_):
            cancelled.set()

        headers = msg.headers or {}
        subject = headers.get("Fl-Cancel")
        sub = await nc.subscribe(subject, cb=cancel) if subject else None
        for page in range(1, pages + 1):
            await asyncio.sleep(0.1)  # the work
            if cancelled.is_set():
                print(headers.get("Fl-User"), "does not wait any more", flush=True)
                break
            await nc.publish(msg.reply, json.dumps({"page": page}).encode(), headers={"Fl-Progress": "1"})
        else:
            await nc.publish(msg.reply, json.dumps({"pages": pages}).encode())
        if sub:
            await sub.unsubscribe()

    tasks = set()

    async def report_called(msg):  # nats-py waits for it before the next message
        task = asyncio.create_task(build_report(msg))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # Workers of one method share a queue group: each call reaches one of them.
    await nc.subscribe("fl.call.orders.create", queue="workers", cb=create_order)
    await nc.subscribe("fl.call.report.build", queue="workers", cb=report_called)
    await nc.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
