"""A wide-area network on one machine, in user space: network namespaces, and one process that is all the links between.

    with Wan({"a": "10.77.0.1", "b": "10.77.0.2"}, {("a", "b"): Weather(delay_ms=40, loss=0.05, burst=3)}) as wan:
        relay = wan.popen("a", ["python3", "relay.pyz", "serve"])     a program in a's namespace
        sock = wan.udp("b")                                           a socket there, used from here
        wan.link("a", "b", loss=0.2)                                  changed while it runs, in both directions
        wan.figures().links["a", "b"].lost                            what the link did to the packets

weather.py and switch.py are pure and take the time; namespace.py, forwarder.py and wan.py touch the kernel.
"""
