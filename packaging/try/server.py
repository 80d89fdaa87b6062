"""Echoes datagrams at port 7000, and accepts connections there for health checks."""
import select, socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
udp.bind(("", 7000))
tcp = socket.create_server(("", 7000))
while True:
    for ready in select.select([udp, tcp], [], [])[0]:
        if ready is udp:
            data, sender = udp.recvfrom(2048)
            udp.sendto(data, sender)
        else:
            tcp.accept()[0].close()
