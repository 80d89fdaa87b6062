# A client and two servers in namespaces of their own, each with a link to this host.
set -e
sysctl -q -w net.ipv4.ip_forward=1 2>/dev/null || echo 1 >/proc/sys/net/ipv4/ip_forward
n=0
for name in client server1 server2; do
    ip netns add $name
    ip link add $name type veth peer name eth0 netns $name
    ip address add 10.1.$n.1/24 dev $name
    ip link set $name up
    ip -n $name address add 10.1.$n.2/24 dev eth0
    ip -n $name link set lo up
    ip -n $name link set eth0 up
    ip -n $name route add default via 10.1.$n.1
    # Frames between veth devices have no checksums otherwise, and native XDP needs GRO at the other end.
    ethtool -K $name tx off >/dev/null
    ip netns exec $name ethtool -K eth0 tx off gro on >/dev/null
    n=$((n + 1))
done
for name in server1 server2; do
    systemd-run --quiet --unit=$name ip netns exec $name python3 /mnt/server.py
done
