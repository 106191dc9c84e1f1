"""Link bounds: the most that a path, or a mode, could serve if it had the cluster to itself.

D is the optimum of the linear relaxation of one block of paths K' on the whole cluster::

    max  sum_{k in K'} rate[k]
    s.t. sum_{o in R(k, r)} capacity[o] n[o]  >=  rate[k]     for every path k and role r of it   (requests/s)
         sum_o gpus[o, g] n[o]                <=  pool_gpus[g]  for every pool g                  (GPUs)
         0 <= n[o] <= largest[o], what the empty cluster holds of o alone                      (replicas)

and at most the service's demand. It is the smallest number for which ``rate <= D y`` cuts nothing off the relaxation of
that block, so there is no loose big M. With one pool it has a closed form: with rho_r the best requests/s per GPU of
role r, D = G / sum_r (1 / rho_r). Otherwise all blocks are solved at once as one block-diagonal program. Where one
pool is small enough to tabulate, a path's bound is the optimum in whole replicas (`formulations.knapsack`): tighter.
"""

from dataclasses import dataclass

import numpy as np

from formulations import knapsack
from formulations.assembly import Assembly
from formulations.seam import from_triplets, relax
from formulations.table import FloatArray, IntArray, Role
from formulations.tolerances import KNAPSACK_SLACK, LINK_SLACK


@dataclass(frozen=True)
class Links:
    """Link bounds of an assembly, requests/s.

    Attributes:
        path: D of every path, (K,).
        mode: D of every (service, mode): over its levels together where the service may split; the largest of its
            levels' where it may not, since it then uses one.
        table: the tables of whole replicas behind `path`, where there are any.
    """

    path: FloatArray
    mode: dict[tuple[int, int], float]
    table: knapsack.Knapsack | None


def bounds(assembly: Assembly) -> Links:
    """Return the link bounds of every path and every (service, mode)."""
    paths, problem = assembly.paths, assembly.problem
    table = knapsack.tabulate(assembly)
    if table is None:
        path = _block_bounds(assembly, np.arange(len(paths), dtype=np.int64))
    else:
        units = table.rate_rps.shape[1] - 1
        whole = [table.split(number, units)[0] for number in range(len(paths))]
        path = np.array(whole, dtype=np.float64) * (1 + KNAPSACK_SLACK)
    path = _capped(path, problem.demand_rps[paths.service])
    pair, block = np.unique(paths.service * len(problem.modes) + paths.mode, return_inverse=True)
    service, mode = np.divmod(pair, len(problem.modes))
    largest = np.zeros(len(pair))
    np.maximum.at(largest, block, path)
    if problem.split[service].any() and len(pair) < len(paths):
        together = _capped(_block_bounds(assembly, block.astype(np.int64)), problem.demand_rps[service])
        largest = np.where(problem.split[service], together, largest)
    pairs = zip(service.tolist(), mode.tolist(), strict=True)
    return Links(path, dict(zip(pairs, largest.tolist(), strict=True)), table)


def _capped(bound: FloatArray, demand: FloatArray) -> FloatArray:
    return np.where(np.isnan(demand), bound, np.minimum(bound, np.nan_to_num(demand)))


def _block_bounds(assembly: Assembly, block: IntArray) -> FloatArray:
    """Return the LP optimum of each block of paths; `block` numbers the block of every path, (K,)."""
    if len(block) == 0:
        return np.zeros(0)
    pools = np.flatnonzero(assembly.gpus.any(axis=0))
    if len(pools) == 1:
        return _one_pool(assembly, block, int(pools[0])) * (1 + LINK_SLACK)
    return _block_program(assembly, block) * (1 + LINK_SLACK)


def _one_pool(assembly: Assembly, block: IntArray, pool: int) -> FloatArray:
    paths = assembly.paths
    best = np.zeros((len(paths), len(Role)))
    np.maximum.at(best, (paths.of_row, assembly.role), assembly.capacity_rps / assembly.gpus[:, pool])
    gpus_per_rate = np.where(best > 0, 1 / np.where(best > 0, best, 1.0), 0.0).sum(axis=1)
    bound = np.zeros(int(block.max()) + 1)
    np.maximum.at(bound, block, assembly.problem.pool_gpus[pool] / gpus_per_rate)
    return bound


def _block_program(assembly: Assembly, block: IntArray) -> FloatArray:
    paths, pools = assembly.paths, len(assembly.problem.pools)
    rows, count = len(assembly.role), int(block.max()) + 1
    matching = len(paths) * len(Role)
    role_row = paths.of_row * len(Role) + assembly.role
    needed = np.unique(role_row)
    using, used_pool = np.nonzero(assembly.gpus)
    triplets: tuple[IntArray, IntArray, FloatArray] = (
        np.concatenate((role_row, needed, matching + block[paths.of_row[using]] * pools + used_pool)),
        np.concatenate((np.arange(rows), rows + needed // len(Role), using)),
        np.concatenate((assembly.capacity_rps, -np.ones(len(needed)), assembly.gpus[using, used_pool].astype(float))),
    )
    columns = rows + len(paths)
    form = from_triplets(
        "maximize",
        np.concatenate((np.zeros(rows), np.ones(len(paths)))),
        (np.zeros(columns), np.concatenate((assembly.largest.astype(np.float64), np.full(len(paths), np.inf)))),
        (
            np.concatenate((np.zeros(matching), np.full(count * pools, -np.inf))),
            np.concatenate((np.full(matching, np.inf), np.tile(assembly.problem.pool_gpus.astype(np.float64), count))),
        ),
        triplets,
    )
    result = relax(form)
    return np.bincount(block, result.values[rows:], count).astype(np.float64)
