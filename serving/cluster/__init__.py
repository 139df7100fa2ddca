"""Ray: places, starts, health-checks and replaces the engine's processes. The only room that imports it; no request passes here.

__main__.py session.py    the process that `serving up` becomes, and what a person sees of it
engine.py        starts everything on Ray, waits until it answers, stops it
boot.py environment.py    what that process is told, and its environment
launch.py        how it becomes an engine, and another one when its Ray has ended
vigil.py pulse.py         what that process looks after while it runs
local_ray.py     starts a Ray of our own, or connects to one
worker.py nursery.py nursery_process.py preload.py   where its workers come from: forks of a process that has everything imported
serve_api.py     every use of Ray Serve's private and alpha API
ray_cluster.py   control.ports.Cluster with Ray Serve
trouble.py       what went wrong in calls of a model, for its status
starts.py ends.py          which starts have failed on this node, how processes ended, when the next try is
watch.py leftovers.py      kills what lives and does not answer; ends what a killed engine has left
replica.py gateway.py edge.py office.py   the four deployments: shells around the rooms below
discovery.py directory.py                 where replicas are, as Serve tells it to gateways
"""
