"""Sends 1,000 datagrams a second to the VIP for some seconds, and counts those that are not answered."""
import select, socket, sys, time
seconds = float(sys.argv[1])
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]
for flow in flows:
    flow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    flow.connect(("192.0.2.10", 7000))
    flow.setblocking(False)
sent, answered = 0, set()

def receive(wait):
    for flow in select.select(flows, [], [], wait)[0]:
        try:
            while True:
                answered.add(int(flow.recv(64)))
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            pass

begin = time.monotonic()
while (now := time.monotonic() - begin) < seconds:
    while sent < now * 1000:
        flows[sent % len(flows)].send(str(sent).encode())
        sent += 1
    receive(0.001)
end = time.monotonic() + 3
while len(answered) < sent and time.monotonic() < end:
    receive(0.1)
print(f"{sent} datagrams sent, {sent - len(answered)} lost")
sys.exit(len(answered) < sent)
